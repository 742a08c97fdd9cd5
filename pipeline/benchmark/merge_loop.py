"""PruMerge's merging one token at a time, as its published code does it: what `trim.prumerge.merge` replaces.

Shapes: N patches, D vision width, k patches kept, K = k + 1 tokens.
"""

import torch
from torch import Tensor


def merge_loop(
    patches_ND: Tensor, scores_N: Tensor, unit_ND: Tensor, kept_k: Tensor, neighbours: int
) -> Tensor:
    """What `merge` gives where something is pruned (arXiv 2403.15388, section 3.2).

    For each kept token all other tokens, their keys and their weights are put together anew, the kept ones
    first, and the nearest are looked up by one product: the data movement of the published loop.

    Returns:
        [K, D] in the dtype of the patches.
    """
    pruned_N = torch.ones(len(patches_ND), dtype=torch.bool)
    pruned_N[kept_k] = False
    ours = (patches_ND[kept_k], unit_ND[kept_k], scores_N[kept_k].to(patches_ND.dtype))
    theirs = (patches_ND[pruned_N], unit_ND[pruned_N], scores_N[pruned_N].to(patches_ND.dtype))
    merged_kD = torch.zeros_like(ours[0])
    for i in range(len(kept_k)):
        rest_MD, keys_MD, weights_M = (
            torch.cat([own[:i], own[i + 1 :], other]) for own, other in zip(ours, theirs, strict=True)
        )
        near_m = torch.topk(keys_MD @ ours[1][i], k=neighbours).indices
        merged_kD[i] = ours[0][i] + (rest_MD[near_m] * weights_M[near_m, None]).sum(0)
    return torch.cat([merged_kD, (theirs[0] * theirs[2][:, None]).sum(0, keepdim=True)])
