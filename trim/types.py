"""Declares a reducer's input, its result, and its interface.

Shapes: B images, N patches, D vision width, P joint CLIP width, d width of one attention head,
H language model width, K tokens kept of one image, k patches kept of one image (k <= K <= N).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@dataclass(frozen=True)
class VisualTokens:
    """A batch of B images. Only `patches` and the fields that the reducer names in `needs` must be there.

    All floating point fields may come in float16, bfloat16 or float32 unless a dtype is given.

    Attributes:
        patches: [B, N, D] hidden_states[-2] of CLIP's ViT without CLS: what LLaVA projects.
        metric: [B, N, P] float32, visual_projection(post_layernorm(patches)).
        text: [B, P] CLIP text_embeds of the question, not normalised.
        cls: [B, D] the CLS token of hidden_states[-2].
        cls_attention: [B, N] head-mean attention CLS -> patch of the layer that produced `patches`.
        head_mean_keys: [B, N, d] keys of that layer, averaged over its heads.
        last_cls_attention: [B, N] softmax(q_cls k^T / sqrt(D)) over all N + 1 keys of the last layer,
            heads not split, CLS dropped (PruMerge's score).
        last_keys: [B, N, D] raw k_proj output of the last layer, CLS dropped.
        embeddings: [B, N, H] patches after LLaVA's projector.
        identity: [B] int64 made from the image's hash and the question; what `Random` seeds with.
        budget: [B] int64 tokens to keep, image by image; overrides the reducer's own number.
    """

    patches: Tensor
    metric: Tensor | None = None
    text: Tensor | None = None
    cls: Tensor | None = None
    cls_attention: Tensor | None = None
    head_mean_keys: Tensor | None = None
    last_cls_attention: Tensor | None = None
    last_keys: Tensor | None = None
    embeddings: Tensor | None = None
    identity: Tensor | None = None
    budget: Tensor | None = None


@dataclass(frozen=True)
class Reduced:
    """Holds the reduced tokens of one image, on the device of its patches.

    Attributes:
        tokens: [K, D] in patch space, before the projector, in the dtype of the patches.
        kept: [k] int64, 0-based: the patches selected one by one (not CLS, not merged ones), in the
            order in which they stand in `tokens`.
    """

    tokens: Tensor
    kept: Tensor


@runtime_checkable
class Reducer(Protocol):
    """Maps each image's N visual tokens to K <= N, whatever other images are in its batch."""

    @property
    def needs(self) -> frozenset[str]:
        """Names of the `VisualTokens` fields it reads besides `patches` and the optional `budget`."""
        ...

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        """Reduce every image of the batch; the list has one entry per image, in order."""
        ...
