"""Merges tokens one at a time, as PruMerge's published code does, to compare `merge_neighbours` with.

Shapes: N patches, D vision width, k patches kept, K = k + 1 tokens.
"""

import torch
from torch import Tensor


def merge_loop(
    patches_ND: Tensor, scores_N: Tensor, unit_ND: Tensor, kept_k: Tensor, neighbkept_parts: int
) -> Tensor:
    """Compute the same as `merge_neighbours` if something is pruned (arXiv 2403.15388, section 3.2).

    For each kept token the loop concatenates all other tokens, keys and weights again, the kept ones first,
    and finds the nearest by one product: the data movement of the published loop.

    Returns:
        [K, D] in the dtype of the patches.
    """
    pruned_N = torch.ones(len(patches_ND), dtype=torch.bool, device=patches_ND.device)
    pruned_N[kept_k] = False
    kept_parts = (patches_ND[kept_k], unit_ND[kept_k], scores_N[kept_k].to(patches_ND.dtype))
    pruned_parts = (patches_ND[pruned_N], unit_ND[pruned_N], scores_N[pruned_N].to(patches_ND.dtype))
    merged_kD = torch.zeros_like(kept_parts[0])
    for i in range(len(kept_k)):
        rest_MD, keys_MD, weights_M = (
            torch.cat([kept[:i], kept[i + 1 :], pruned])
            for kept, pruned in zip(kept_parts, pruned_parts, strict=True)
        )
        near_m = torch.topk(keys_MD @ kept_parts[1][i], k=neighbkept_parts).indices
        merged_kD[i] = kept_parts[0][i] + (rest_MD[near_m] * weights_M[near_m, None]).sum(0)
    return torch.cat([merged_kD, (pruned_parts[0] * pruned_parts[2][:, None]).sum(0, keepdim=True)])
