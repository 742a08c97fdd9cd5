"""Runs SigLIP for the encode stage: patches of one layer, and patches and texts in the joint space.

Its towers have no CLS token and no projection (arXiv 2303.15343). Its head pools all patches by attention
into an image's embedding; here a patch's embedding is the head's output for that patch alone.

Legend: B images or texts, N patches, D vision width, P joint width, L positions of the text tower.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    SiglipTextModel,
    SiglipVisionModel,
)
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from pipeline.models.checkpoints.kinds import JOINT_FIELDS
from pipeline.models.checkpoints.layouts import TOWER_KEYS, tower_name
from pipeline.models.checkpoints.loading import fill, load_config, load_part
from pipeline.models.checkpoints.parts import Part, make_part
from pipeline.models.preprocess import Normalization
from pipeline.models.towers import Towers

_PREFIX = "vision_model."
_HEAD = (f"{_PREFIX}post_layernorm.", f"{_PREFIX}head.")  # in a SiglipModel


class SiglipEncoder(Towers):
    """Holds a LLaVA's own vision tower, with the pooling head and text tower of its SigLIP.

    Args:
        tower: the LLaVA checkpoint, whose training may have changed its vision tower.
        clip: a SiglipModel checkpoint; None if `needs` holds none of JOINT_FIELDS.
        feature_layer: vision layers to run (`Geometry.feature_layer`); those after it are dropped.
        normalization: makes pixel_values of pixels (`Preprocessor.normalization`).
        needs: the fields of VisualTokens that will be read; without "text" no text tower is loaded.
        device, dtype: of the towers. Norm, head and the text's last projection are float32 whatever the
            dtype, as CLIP's projections are.

    Raises ConfigError if weights are missing.
    """

    def __init__(
        self,
        tower: Path,
        clip: Path | None,
        *,
        feature_layer: int,
        normalization: Normalization,
        needs: frozenset[str] = JOINT_FIELDS,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        super().__init__(normalization, device)
        vision = self.library_tower(tower, torch.float32)
        vision.encoder.layers = vision.encoder.layers[:feature_layer]
        vision.post_layernorm = nn.Identity()  # LLaVA reads the layers before this norm
        self._vision_tower = vision.to(self.device, dtype)
        if clip is not None and "metric" in needs:
            self._head: Any = fill(_head(clip), torch.float32).to(self.device)  # its parts have no types
        if clip is not None and "text" in needs:
            text = load_part(SiglipTextModel, "text tower", clip, torch.float32)
            self._text_head = text.head.to(self.device)
            text.head = nn.Identity()
            self._text_tower = text.to(self.device, dtype)
            tokenizer = AutoTokenizer.from_pretrained(clip, trust_remote_code=False)
            self._max_tokens: int = text.config.max_position_embeddings
            self._set_tokenizer(tokenizer, self._max_tokens, [], [tokenizer.eos_token_id])

    @staticmethod
    def parts(tower: Path, clip: Path | None) -> list[Part]:
        """See `Towers.parts`."""
        vision = _tower_config(tower)
        parts = [make_part("vision tower", tower, lambda: SiglipVisionModel(vision), tower_name)]
        if clip is not None:
            text = load_config(clip).text_config
            parts.append(make_part("text tower", clip, lambda: SiglipTextModel(text), _text_name))
            parts.append(_head(clip))
        return parts

    @staticmethod
    def library_tower(folder: Path, dtype: torch.dtype) -> Any:  # see load_part
        """See `Towers.library_tower`."""
        config = _tower_config(folder)
        return load_part(
            SiglipVisionModel, "vision tower", folder, dtype, config=config, key_mapping=TOWER_KEYS
        )

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

    def _padded(self, pieces: list[list[int]]) -> np.ndarray:
        """Return ids at all of the text tower's positions: int64 [1, B, L]."""
        padding = self._tokenizer.pad_token_id
        return np.array([[piece + [padding] * (self._max_tokens - len(piece)) for piece in pieces]], np.int64)

    def _embed(self, padded: Tensor) -> Tensor:
        """Return SigLIP's text embeddings: the last of L positions, after padding without a mask."""
        pooled = self._text_tower(padded[0]).pooler_output
        embeds_BP: Tensor = self._text_head(pooled.float())
        return embeds_BP


def _tower_config(folder: Path) -> Any:  # a vision configuration of transformers
    """Load the configuration of a vision tower without a head, which LLaVA does not read."""
    config = load_config(folder).vision_config
    config.vision_use_head = False
    return config


def _head(clip: Path) -> Part:
    """Describe a SigLIP's norm and pooling head."""
    config = load_config(clip).vision_config

    def make() -> nn.Module:
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        return nn.ModuleDict({"post_layernorm": norm, "head": SiglipMultiheadAttentionPoolingHead(config)})

    def short(name: str) -> str | None:
        return name.removeprefix(_PREFIX) if name.startswith(_HEAD) else None

    return make_part("pooling head", clip, make, short)


def _text_name(name: str) -> str | None:
    return name.removeprefix("text_model.") if name.startswith("text_model.") else None
