"""Defines the base class of encoders: a vision and a text tower of one joint space.

Legend: B images or texts, S pixels a side, C channels, N patches, D vision width, P joint width.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from pipeline.models.checkpoints.parts import Part
from pipeline.models.preprocess import Normalization

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS_AT_ONCE = 256


@dataclass(frozen=True)
class TextTokens:
    """Holds the padded token ids of texts, at most TEXTS_AT_ONCE pieces together, and each text's pieces."""

    padded: list[np.ndarray]
    counts: list[int]


class Towers(ABC):
    """Holds a vision tower up to the layer that LLaVA reads, and the text tower of the same joint space.

    A subclass is the encoder of one family (pipeline/models/checkpoints/kinds.py). It loads its towers, calls
    `_set_tokenizer` if it loads a text tower, and implements the abstract methods. It is made as
    `Subclass(tower, clip, **TowerOptions)`, and raises ConfigError if weights are missing.

    Args:
        normalization: makes pixel_values of pixels (`Preprocessor.normalization`).
        device: of the towers.
    """

    def __init__(self, normalization: Normalization, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.normalization = normalization
        self._mean_C = torch.tensor(normalization.mean, device=self.device)
        self._std_C = torch.tensor(normalization.std, device=self.device)

    @staticmethod
    @abstractmethod
    def library_tower(folder: Path, dtype: torch.dtype) -> nn.Module:
        """Load a checkpoint's whole vision tower as transformers' LLaVA has it.

        Raises ConfigError if weights are missing.
        """

    @staticmethod
    @abstractmethod
    def parts(tower: Path, clip: Path | None) -> list[Part]:
        """Describe the parts that an encoder reads of two checkpoints, as its constructor takes them."""

    def _set_tokenizer(
        self, tokenizer: "PreTrainedTokenizerBase", max_tokens: int, before: list[int], after: list[int]
    ) -> None:
        """Set how a text becomes at most `max_tokens` tokens, with the tokens `before` and `after` it."""
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
        """Project patches into the joint space: float32 [B, N, P]."""

    @abstractmethod
    def _padded(self, pieces: list[list[int]]) -> np.ndarray:
        """Pad lists of token ids, B, to one length L: int64 [1 or more, B, L], the ids first."""

    @abstractmethod
    def _embed(self, padded: Tensor) -> Tensor:
        """Embed what `_padded` made, on the encoder's device: float32 [B, P], not normalised."""

    def encode_texts(self, texts: Sequence[str], *, windows: bool = False) -> Tensor:
        """Embed texts in the joint space, not normalised: float32 [B, P] on the encoder's device.

        See `tokenize_texts`.
        """
        tokens = self.tokenize_texts(texts, windows=windows)
        return self.embed_tokens([torch.from_numpy(x).to(self.device) for x in tokens.padded], tokens.counts)

    def tokenize_texts(self, texts: Sequence[str], *, windows: bool = False) -> "TextTokens":
        """Turn texts into what `embed_tokens` embeds, on the host.

        A text is cut at the tower's positions (CLIP's 77 tokens, the end token among them). With `windows` it
        is split there instead, each piece with the special tokens of a text. The mean of the pieces, each
        scaled to length 1, gives the direction, so that a cosine with it orders patches as the mean of the
        pieces' cosines does. Its scale is the mean length of the pieces, as dot products of short and long
        texts are read by one rule. The encoder must have been loaded with "text" in its `needs`.
        """
        pieces = [self._pieces(text, windows) for text in texts]
        flat = [piece for of_text in pieces for piece in of_text]
        starts = range(0, len(flat), TEXTS_AT_ONCE)
        padded = [self._padded(flat[first : first + TEXTS_AT_ONCE]) for first in starts]
        return TextTokens(padded, [len(of_text) for of_text in pieces])

    @torch.inference_mode()
    def embed_tokens(self, padded: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
        """Embed texts in the joint space: float32 [B, P] on the encoder's device.

        Args:
            padded: `TextTokens.padded`, on the encoder's device.
            counts: `TextTokens.counts`.
        """
        embeds_BP = torch.cat([self._embed(tokens) for tokens in padded])
        if len(embeds_BP) == len(counts):
            return embeds_BP
        parts = torch.split(embeds_BP, list(counts))
        return torch.stack([_mean_direction(part) for part in parts])

    def _pieces(self, text: str, windows: bool) -> list[list[int]]:
        """Split a text's token ids into pieces of the tower's length; without `windows`, the first alone."""
        room = self._room
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        stop = len(ids) if windows else room
        parts = [ids[at : at + room] for at in range(0, max(1, min(len(ids), stop)), room)]
        return [[*self._before, *part, *self._after] for part in parts]

    def normalize(self, pixels_BSSC: Tensor) -> Tensor:
        """Make pixel_values [B, C, S, S], float32; uint8 crosses to the device, a quarter of the bytes."""
        values = pixels_BSSC.to(self.device, non_blocking=True).float() * self.normalization.rescale_factor
        return ((values - self._mean_C) / self._std_C).permute(0, 3, 1, 2)


def _mean_direction(pieces_BP: Tensor) -> Tensor:
    """Average the directions of embeddings and scale the result by their mean length; one alone stays."""
    if len(pieces_BP) == 1:
        return pieces_BP[0]
    length: Tensor = torch.linalg.vector_norm(pieces_BP, dim=-1).mean()
    return length * normalize(pieces_BP, dim=-1).mean(0)
