"""Runs SigLIP for the encode stage: patches of one layer, and patches and texts in the joint space.

Its towers have no CLS token and no projection (arXiv 2303.15343). Its head pools all patches by attention
into an image's embedding; here a patch's embedding is the head's output for that patch alone.

Legend: B images or texts, N patches, D vision width, P joint width, L positions of the text tower.
"""

from pathlib import Path
from typing import Any, Self, Unpack

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from pipeline.models.checkpoints.layouts import TOWER_KEYS
from pipeline.models.checkpoints.loading import fill, load_part
from pipeline.models.preprocess import Normalization
from pipeline.models.towers import TowerOptions, Towers

_PREFIX = "vision_model."  # of the head and of the norm before it, in a SiglipModel


class SiglipEncoder(Towers):
    """Holds a LLaVA's own vision tower, with the pooling head and text tower of its SigLIP.

    Args:
        folder: a SiglipModel checkpoint.
        tower: the LLaVA checkpoint, whose training may have changed its vision tower.
        feature_layer: vision layers to run (`Geometry.feature_layer`); those after it are dropped.
        normalization: makes pixel_values of pixels (`Preprocessor.normalization`).
        needs: the fields of VisualTokens that will be read; without "text" no text tower is loaded.
        device, dtype: of the towers. Norm, head and the text's last projection are float32 whatever the
            dtype, as CLIP's projections are.

    Raises ConfigError if weights are missing.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tower: Path,
        feature_layer: int,
        normalization: Normalization,
        needs: frozenset[str] = frozenset({"metric", "text"}),
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        super().__init__(normalization, config.vision_config.hidden_size, device)
        vision = _load_tower(tower, torch.float32)
        vision.encoder.layers = vision.encoder.layers[:feature_layer]
        vision.post_layernorm = nn.Identity()  # LLaVA reads the layers before this norm
        self._vision_tower = vision.to(self.device, dtype)
        self._head = _load_head(folder, config.vision_config).to(self.device)
        if "text" in needs:
            text = load_part(SiglipTextModel, "text tower", folder, torch.float32)
            self._text_head = text.head.to(self.device)
            text.head = nn.Identity()
            self._text_tower = text.to(self.device, dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            self._max_tokens: int = text.config.max_position_embeddings
            self._set_tokenizer(tokenizer, self._max_tokens, [], [tokenizer.eos_token_id])

    @classmethod
    def of_model(cls, llava: Path, clip: Path, **options: Unpack[TowerOptions]) -> Self:
        """See `Towers.of_model`: the vision tower is the LLaVA's, head and text tower are the SigLIP's."""
        return cls(clip, tower=llava, **options)

    @staticmethod
    def library_tower(llava: Path, clip: Path, dtype: torch.dtype) -> nn.Module:
        """See `Towers.library_tower`."""
        tower: nn.Module = _load_tower(llava, dtype)
        return tower

    @torch.inference_mode()
    def encode_images(self, pixels_BSSC: Tensor, needs: frozenset[str]) -> dict[str, Tensor]:
        """Run the vision tower: `patches` [B, N, D] of the feature layer, and `metric` [B, N, P] if needed.

        See `Towers.encode_images`.
        """
        patches_BND = self._vision_tower(pixel_values=self.normalize(pixels_BSSC)).last_hidden_state
        return {"patches": patches_BND} | ({"metric": self.metric(patches_BND)} if "metric" in needs else {})

    @torch.inference_mode()
    def metric(self, patches_BND: Tensor) -> Tensor:
        """Run norm and pooling head on each patch alone: float32 [B, N, P].

        Attention over one token gives its value whatever the query, so neither query nor key is computed.
        """
        normed_BND = self._head["post_layernorm"](patches_BND.float())
        head = self._head["head"]
        weight_DD, bias_D = (
            x.chunk(3)[2] for x in (head.attention.in_proj_weight, head.attention.in_proj_bias)
        )
        pooled_BND: Tensor = head.attention.out_proj(nn.functional.linear(normed_BND, weight_DD, bias_D))
        mixed_BND: Tensor = head.mlp(head.layernorm(pooled_BND))
        return pooled_BND + mixed_BND

    def _embed(self, pieces: list[list[int]]) -> Tensor:
        """Return SigLIP's text embeddings: the last of L positions, after padding without a mask."""
        padding = self._tokenizer.pad_token_id
        ids_BL = [piece + [padding] * (self._max_tokens - len(piece)) for piece in pieces]
        pooled = self._text_tower(torch.tensor(ids_BL, device=self.device)).pooler_output
        embeds_BP: Tensor = self._text_head(pooled.float())
        return embeds_BP


def _load_tower(llava: Path, dtype: torch.dtype) -> Any:  # see load_part
    """Load a LLaVA's vision tower, without a head."""
    config = AutoConfig.from_pretrained(llava, trust_remote_code=False).vision_config
    config.vision_use_head = False
    return load_part(SiglipVisionModel, "vision tower", llava, dtype, config=config, key_mapping=TOWER_KEYS)


# Any: the attributes of a module within a ModuleDict have no types.
def _load_head(folder: Path, config: SiglipVisionConfig) -> Any:
    """Load a SigLIP's norm and pooling head in float32; its layers are not read."""
    with torch.device("meta"):
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        parts = nn.ModuleDict({"post_layernorm": norm, "head": SiglipMultiheadAttentionPoolingHead(config)})
    named = tuple(f"{_PREFIX}{part}." for part in parts)

    def short(name: str) -> str | None:
        return name.removeprefix(_PREFIX) if name.startswith(named) else None

    return fill(parts, "pooling head", folder, short, torch.float32)
