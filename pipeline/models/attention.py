"""What CLS looks at in a CLIP vision tower: one row of an attention map, from queries and keys alone.

A whole map is never made, so the tower's layers keep their fused attention.

Legend: B images, N patches, M = N + 1 tokens with CLS first, D vision width, d width of a head.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Tap:
    """Keeps what the query and key projections of one attention layer gave in the last forward pass."""

    def __init__(self, attention: Any) -> None:
        self._found: dict[str, Tensor] = {}
        self._heads: int = attention.num_heads
        for name in ("q_proj", "k_proj"):
            getattr(attention, name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def hook(module: Any, given: Any, output: Tensor) -> None:
            self._found[name] = output

        return hook

    def take(self) -> tuple[Tensor, Tensor]:
        """The CLS query [B, D] and all keys [B, M, D]; they are let go."""
        return self._found.pop("q_proj")[:, 0], self._found.pop("k_proj")

    def cls_attention(self, query_BD: Tensor, keys_BMD: Tensor) -> Tensor:
        """What CLS gives each patch, averaged over the heads: float32 [B, N].

        softmax(q_cls k^T / sqrt(d)) over all M tokens of each head, CLS's own share dropped.
        """
        query, keys = (x.float().unflatten(-1, (self._heads, -1)) for x in (query_BD, keys_BMD))
        scores = torch.einsum("bhd,bmhd->bhm", query, keys) * query.shape[-1] ** -0.5
        return scores.softmax(-1)[..., 1:].mean(1)

    def head_mean_keys(self, keys_BMD: Tensor) -> Tensor:
        """Each patch's keys averaged over the heads: [B, N, d] in the tower's dtype."""
        return keys_BMD[:, 1:].unflatten(-1, (self._heads, -1)).mean(2)


class LastLayer:
    """Queries and keys of a tower's last layer, of which nothing else is run.

    `layers` are those after the one that LLaVA reads, the last among them.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self._between = layers[:-1]
        self._norm = layers[-1].layer_norm1
        self._query, self._key = layers[-1].self_attn.q_proj, layers[-1].self_attn.k_proj

    def __call__(self, hidden_BMD: Tensor) -> tuple[Tensor, Tensor]:
        """The CLS query [B, D] and all keys [B, M, D] of the last layer."""
        for layer in self._between:
            hidden_BMD = layer(hidden_BMD, attention_mask=None)
        normed = self._norm(hidden_BMD)
        return self._query(normed[:, 0]), self._key(normed)


def single_head_attention(query_BD: Tensor, keys_BMD: Tensor) -> Tensor:
    """softmax(q_cls k^T / sqrt(D)) over all M tokens, heads not split, CLS's own share dropped.

    Returns float32 [B, N]: PruMerge's score (arXiv 2403.15388) as its published code has it.
    """
    scores_BM = torch.einsum("bd,bmd->bm", query_BD.float(), keys_BMD.float()) * keys_BMD.shape[-1] ** -0.5
    return scores_BM.softmax(-1)[:, 1:]
