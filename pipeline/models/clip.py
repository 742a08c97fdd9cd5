"""Runs CLIP for the encode stage: patches of one layer, and patches and texts in the joint space.

Legend: B images or texts, S pixels a side, C channels, N patches, D vision width, P joint CLIP width.
"""

import copy
from pathlib import Path
from typing import Self, Unpack

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

from pipeline.models.attention import LastLayer, Tap, single_head_attention
from pipeline.models.checkpoints.loading import load_part
from pipeline.models.preprocess import Normalization
from pipeline.models.towers import TowerOptions, Towers

OWN_LAYER = frozenset({"cls_attention", "head_mean_keys"})
LAST_LAYER = frozenset({"last_cls_attention", "last_keys"})
IMAGE_FIELDS = frozenset({"patches", "metric", "cls"}) | OWN_LAYER | LAST_LAYER


class ClipEncoder(Towers):
    """Holds both towers of a CLIPModel checkpoint; the vision tower ends at the layer that LLaVA reads.

    Args:
        folder: a CLIPModel checkpoint.
        feature_layer: vision layers to run (`Geometry.feature_layer`); those after it are dropped.
        normalization: makes pixel_values of pixels (`Preprocessor.normalization`).
        needs: the fields of VisualTokens that will be read; without "text" no text tower is loaded.
        device, dtype: of the towers. The projections into the joint space are float32 whatever the dtype:
            outlier rules read them, and bfloat16's rounding would decide which patches are kept.

    Raises ConfigError if the folder lacks weights of a tower.
    """

    def __init__(
        self,
        folder: Path,
        *,
        feature_layer: int,
        normalization: Normalization,
        needs: frozenset[str] = frozenset({"metric", "text"}),
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        vision = load_part(CLIPVisionModelWithProjection, "vision tower", folder, torch.float32)
        super().__init__(normalization, vision.config.projection_dim, device)
        tower = vision.vision_model
        layers = tower.encoder.layers
        tower.encoder.layers = layers[:feature_layer]
        head = nn.Sequential(copy.deepcopy(tower.post_layernorm), vision.visual_projection)
        self._vision_head = head.to(self.device)
        self._vision_tower = tower.to(self.device, dtype)
        after = layers[feature_layer:].to(self.device, dtype)
        tapped = OWN_LAYER if len(after) else OWN_LAYER | LAST_LAYER
        self._tap = Tap(layers[feature_layer - 1].self_attn) if needs & tapped else None
        self._last = LastLayer(after) if needs & LAST_LAYER and len(after) else None
        if "text" in needs:
            text = load_part(CLIPTextModelWithProjection, "text tower", folder, torch.float32)
            self._text_head = text.text_projection.to(self.device)
            self._text_tower = text.text_model.to(self.device, dtype)
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            ends = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
            self._set_tokenizer(tokenizer, text.config.max_position_embeddings, *ends)

    @classmethod
    def of_model(cls, llava: Path, clip: Path, **options: Unpack[TowerOptions]) -> Self:
        """See `Towers.of_model`: both towers are the CLIP's."""
        return cls(clip, **options)

    @staticmethod
    def library_tower(llava: Path, clip: Path, dtype: torch.dtype) -> nn.Module:
        """See `Towers.library_tower`."""
        tower: nn.Module = load_part(CLIPVisionModelWithProjection, "vision tower", clip, dtype).vision_model
        return tower

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

    def _embed(self, pieces: list[list[int]]) -> Tensor:
        """Return CLIP's text_embeds."""
        tokens = self._tokenizer.pad({"input_ids": pieces}, padding=True, return_tensors="pt").to(self.device)
        pooled = self._text_tower(tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
        embeds_BP: Tensor = self._text_head(pooled.float())
        return embeds_BP
