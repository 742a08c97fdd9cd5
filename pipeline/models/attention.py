"""Computes the CLS row of a CLIP tower's attention maps from queries and keys alone.

No whole map is computed, so the tower's layers keep their fused attention.

Legend: B images, N patches, M = N + 1 tokens with CLS first, D vision width, d width of a head.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers.models.clip.modeling_clip import CLIPAttention, CLIPEncoderLayer


class Tap:
    """Keeps the outputs of one attention layer's query and key projections of the last forward pass."""

    def __init__(self, attention: "CLIPAttention") -> None:
        self._outputs: dict[str, Tensor] = {}
        self._heads: int = attention.num_heads
        for name in ("q_proj", "k_proj"):
            getattr(attention, name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            self._outputs[name] = output

        return hook

    def take(self) -> tuple[Tensor, Tensor]:
        """Return the CLS query [B, D] and all keys [B, M, D], and drop them."""
        return self._outputs.pop("q_proj")[:, 0], self._outputs.pop("k_proj")

    def cls_attention(self, query_BD: Tensor, keys_BMD: Tensor) -> Tensor:
        """Average over the heads the attention of CLS to each patch: float32 [B, N].

        softmax(q_cls k^T / sqrt(d)) over all M tokens of each head, CLS's own share dropped.
        """
        query, keys = (self._split_heads(x.float()) for x in (query_BD, keys_BMD))
        scores: Tensor = torch.einsum("bhd,bmhd->bhm", query, keys) * query.shape[-1] ** -0.5
        return scores.softmax(-1)[..., 1:].mean(1)

    def head_mean_keys(self, keys_BMD: Tensor) -> Tensor:
        """Average each patch's keys over the heads: [B, N, d] in the tower's dtype."""
        return self._split_heads(keys_BMD[:, 1:]).mean(2)

    def _split_heads(self, x: Tensor) -> Tensor:
        heads: Tensor = x.unflatten(-1, (self._heads, -1))  # type: ignore[no-untyped-call]
        return heads


class LastLayer:
    """Computes queries and keys of a tower's last layer, and nothing else of that layer.

    `layers` are those after the one that LLaVA reads, up to the last.
    """

    def __init__(self, layers: Sequence["CLIPEncoderLayer"]) -> None:
        self._between = layers[:-1]
        self._norm = layers[-1].layer_norm1
        self._query, self._key = layers[-1].self_attn.q_proj, layers[-1].self_attn.k_proj

    def __call__(self, hidden_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """Return the CLS query [B, D] and all keys [B, M, D] of the last layer."""
        for layer in self._between:
            hidden_BMD = layer(hidden_BMD, attention_mask=None)
        normed = self._norm(hidden_BMD)
        return self._query(normed[:, 0]), self._key(normed)


def single_head_attention(query_BD: Tensor, keys_BMD: Tensor) -> Tensor:
    """Return softmax(q_cls k^T / sqrt(D)) over all M tokens, heads not split, CLS's own share dropped.

    float32 [B, N]: PruMerge's score (arXiv 2403.15388) as its published code computes it.
    """
    scores_BM: Tensor = (
        torch.einsum("bd,bmd->bm", query_BD.float(), keys_BMD.float()) * keys_BMD.shape[-1] ** -0.5
    )
    return scores_BM.softmax(-1)[:, 1:]
