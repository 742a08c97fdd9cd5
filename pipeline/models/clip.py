"""Runs CLIP for the encode stage: patches of one layer, and patches and texts in the joint space.

Legend: B images or texts, S pixels a side, C channels, N patches, D vision width, P joint CLIP width.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModel

from pipeline.models.attention import LastLayer, Tap, single_head_attention
from pipeline.models.checkpoints.kinds import JOINT_FIELDS
from pipeline.models.checkpoints.layouts import TOWER_KEYS, tower_name
from pipeline.models.checkpoints.loading import fill, load_config, load_part
from pipeline.models.checkpoints.parts import Part, make_part
from pipeline.models.preprocess import Normalization
from pipeline.models.towers import Towers

OWN_LAYER = frozenset({"cls_attention", "head_mean_keys"})
LAST_LAYER = frozenset({"last_cls_attention", "last_keys"})
IMAGE_FIELDS = frozenset({"patches", "metric", "cls"}) | OWN_LAYER | LAST_LAYER


class ClipEncoder(Towers):
    """Holds a CLIP vision tower up to the layer that LLaVA reads, with a CLIPModel's projections and texts.

    Args:
        tower: the checkpoint whose vision tower runs: a LLaVA, or a CLIPModel.
        clip: a CLIPModel checkpoint; None if `needs` holds none of JOINT_FIELDS.
        feature_layer: vision layers to run (`Geometry.feature_layer`); those after it are dropped.
        normalization: makes pixel_values of pixels (`Preprocessor.normalization`).
        needs: the fields of VisualTokens that will be read; without "text" no text tower is loaded.
        device, dtype: of the towers. The projections into the joint space are float32 whatever the dtype:
            outlier rules read them, and bfloat16's rounding would decide which patches are kept.

    Raises ConfigError if a folder lacks weights.
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
        vision.post_layernorm = nn.Identity()  # LLaVA reads the layers before this norm
        layers = vision.encoder.layers
        vision.encoder.layers = layers[:feature_layer]
        self._vision_tower = vision.to(self.device, dtype)
        after = layers[feature_layer:].to(self.device, dtype)
        tapped = OWN_LAYER if len(after) else OWN_LAYER | LAST_LAYER
        self._tap = Tap(layers[feature_layer - 1].self_attn) if needs & tapped else None
        self._last = LastLayer(after) if needs & LAST_LAYER and len(after) else None
        if clip is not None and "metric" in needs:
            self._vision_head = fill(_projection(clip), torch.float32).to(self.device)
        if clip is not None and "text" in needs:
            text = load_part(CLIPTextModelWithProjection, "text tower", clip, torch.float32)
            self._text_head = text.text_projection.to(self.device)
            self._text_tower = text.text_model.to(self.device, dtype)
            tokenizer = AutoTokenizer.from_pretrained(clip, trust_remote_code=False)
            ends = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
            self._set_tokenizer(tokenizer, text.config.max_position_embeddings, *ends)

    @staticmethod
    def parts(tower: Path, clip: Path | None) -> list[Part]:
        """See `Towers.parts`."""
        vision = load_config(tower).vision_config
        parts = [make_part("vision tower", tower, lambda: CLIPVisionModel(vision), tower_name)]
        if clip is not None:
            text = load_config(clip).text_config
            parts.append(make_part("text tower", clip, lambda: CLIPTextModelWithProjection(text), _text_name))
            parts.append(_projection(clip))
        return parts

    @staticmethod
    def library_tower(folder: Path, dtype: torch.dtype) -> Any:  # see load_part
        """See `Towers.library_tower`."""
        config = load_config(folder).vision_config
        return load_part(
            CLIPVisionModel, "vision tower", folder, dtype, config=config, key_mapping=TOWER_KEYS
        )

    @torch.inference_mode()
    def encode_images(self, pixels_BSSC: Tensor, needs: frozenset[str]) -> dict[str, Tensor]:
        """Run the vision tower once over preprocessed images.

        Args:
            pixels_BSSC: uint8, on any device.
            needs: of IMAGE_FIELDS; `patches` are always given, other names are ignored.

        Returns tensors on the encoder's device:
            patches [B, N, D] in its dtype: hidden_states[feature_layer] without CLS.
            metric  [B, N, P] float32: visual_projection(post_layernorm(patches)).
            cls     [B, D] in its dtype: the CLS token of the same hidden state.
            cls_attention, head_mean_keys, last_cls_attention, last_keys: see `trim.VisualTokens`.
        """
        hidden = self._vision_tower(pixel_values=self.normalize(pixels_BSSC)).last_hidden_state
        fields = {"patches": hidden[:, 1:]}
        if "metric" in needs:
            fields["metric"] = self.metric(fields["patches"])
        if "cls" in needs:
            fields["cls"] = hidden[:, 0]
        if self._tap is not None:
            query_BD, keys_BMD = self._tap.take()
            fields["cls_attention"] = self._tap.cls_attention(query_BD, keys_BMD)
            fields["head_mean_keys"] = self._tap.head_mean_keys(keys_BMD)
        if needs & LAST_LAYER:
            if self._last is not None:
                query_BD, keys_BMD = self._last(hidden)
            fields["last_cls_attention"] = single_head_attention(query_BD, keys_BMD)
            fields["last_keys"] = keys_BMD[:, 1:]
        return {name: value for name, value in fields.items() if name in needs or name == "patches"}

    @torch.inference_mode()
    def metric(self, patches_BND: Tensor) -> Tensor:
        """See `Towers.metric`."""
        metric_BNP: Tensor = self._vision_head(patches_BND.float())
        return metric_BNP

    def _padded(self, pieces: list[list[int]]) -> np.ndarray:
        """Return ids and, if any piece is padded, their attention mask: int64 [1 or 2, B, L]."""
        tokens = self._tokenizer.pad({"input_ids": pieces}, padding=True, return_tensors="np")
        ids, mask = tokens["input_ids"], tokens["attention_mask"]
        return np.stack([ids, mask][: 1 if mask.all() else 2]).astype(np.int64)

    def _embed(self, padded: Tensor) -> Tensor:
        """Return CLIP's text_embeds."""
        ids, mask = padded[0], padded[1] if len(padded) > 1 else None
        pooled = self._text_tower(ids, attention_mask=mask).pooler_output
        embeds_BP: Tensor = self._text_head(pooled.float())
        return embeds_BP


def _projection(clip: Path) -> Part:
    """Describe a CLIP's last norm and the projection of patches into the joint space."""
    config = load_config(clip)
    width, eps = config.vision_config.hidden_size, config.vision_config.layer_norm_eps

    def make() -> nn.Module:
        return nn.Sequential(
            nn.LayerNorm(width, eps=eps), nn.Linear(width, config.projection_dim, bias=False)
        )

    def short(name: str) -> str | None:
        part, _, rest = name.removeprefix("vision_model.").partition(".")
        number = {"post_layernorm": "0", "visual_projection": "1"}.get(part)
        return number and f"{number}.{rest}"

    return make_part("projection", clip, make, short)


def _text_name(name: str) -> str | None:
    return name if name.startswith(("text_model.", "text_projection.")) else None
