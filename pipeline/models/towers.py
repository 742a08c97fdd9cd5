"""What CLIP and SigLIP have in common as the encode stage needs them: pixels in, and texts by the piece.

Legend: B images or texts, S pixels a side, C channels, N patches, D vision width, P joint width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.models.preprocess import Normalization

TEXTS_AT_ONCE = 256


class Towers(ABC):
    """A vision tower that ends at the layer LLaVA reads, and the text tower of the same joint space.

    Args:
        normalization: makes pixel_values of pixels (`Preprocessor.normalization`).
        joint_width: P.
        device: of the towers.
    """

    def __init__(self, normalization: Normalization, joint_width: int, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.normalization = normalization
        self.joint_width = joint_width
        self._mean_C = torch.tensor(normalization.mean, device=self.device)
        self._std_C = torch.tensor(normalization.std, device=self.device)

    def _read_texts(self, tokenizer: Any, max_tokens: int, before: list[int], after: list[int]) -> None:
        """How a text becomes tokens: at most `max_tokens`, `before` and `after` among them."""
        self._tokenizer, self._before, self._after = tokenizer, before, after
        self._room = max_tokens - len(before) - len(after)

    @abstractmethod
    def encode_images(self, pixels_BSSC: Tensor, needs: frozenset[str]) -> dict[str, Tensor]:
        """Run the vision tower once over preprocessed images, uint8 on any device.

        Returns fields of `trim.VisualTokens` on the encoder's device: `patches` [B, N, D] in its dtype, as
        LLaVA projects them, and those of `needs` that the tower has; other names are ignored.
        """

    @abstractmethod
    def metric(self, patches_BND: Tensor) -> Tensor:
        """Patches in the joint space: float32 [B, N, P]."""

    @abstractmethod
    def _embed(self, pieces: list[list[int]]) -> Tensor:
        """Token ids of texts, at most TEXTS_AT_ONCE of them -> float32 [B, P], not normalised."""

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str], *, windows: bool = False) -> Tensor:
        """The texts in the joint space, not normalised: float32 [B, P] on the encoder's device.

        A text is cut at the tower's positions (CLIP's 77 tokens, the end token among them); with `windows`
        it is split there instead, and the mean of its pieces' embeddings given. The encoder must have been
        made with "text" in its `needs`.
        """
        pieces = [self._pieces(text, windows) for text in texts]
        every = [piece for several in pieces for piece in several]
        chunks = [torch.empty(0, self.joint_width, device=self.device)]
        for first in range(0, len(every), TEXTS_AT_ONCE):
            chunks.append(self._embed(every[first : first + TEXTS_AT_ONCE]))
        embeds_BP = torch.cat(chunks)
        if len(every) == len(texts):
            return embeds_BP
        return torch.stack([part.mean(0) for part in embeds_BP.split([len(several) for several in pieces])])

    def _pieces(self, text: str, windows: bool) -> list[list[int]]:
        """A text's token ids between start and end token, in one piece or in as many as it takes."""
        room = self._room
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        stop = len(ids) if windows else room
        parts = [ids[at : at + room] for at in range(0, max(1, min(len(ids), stop)), room)]
        return [[*self._before, *part, *self._after] for part in parts]

    def normalize(self, pixels_BSSC: Tensor) -> Tensor:
        """pixel_values [B, C, S, S] float32; uint8 crosses to the device, a quarter of the bytes."""
        values = pixels_BSSC.to(self.device, non_blocking=True).float() * self.normalization.rescale_factor
        return ((values - self._mean_C) / self._std_C).permute(0, 3, 1, 2)
