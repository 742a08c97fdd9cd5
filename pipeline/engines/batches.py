"""Plans batches of prompts of similar length, and pads their embeddings to one length.

Legend: B requests of a batch, L tokens of the longest prompt (visual ones included), H language width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def plan_batches(lengths: Sequence[int], token_budget: int, max_batch: int) -> list[list[int]]:
    """Group the indices of `lengths` into batches of similar length, the longest first.

    A batch's size times its longest length is at most `token_budget`, unless it has a single member. With
    the longest first, a batch that is too large for memory fails at the start rather than after hours.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        longest = lengths[batches[-1][0]] if batches else 0
        if not batches or len(batches[-1]) == max_batch or (len(batches[-1]) + 1) * longest > token_budget:
            batches.append([])
        batches[-1].append(index)
    return batches


def pad_behind(embeds: Sequence[Tensor], head: int) -> tuple[Tensor, Tensor]:
    """Pad sequences [*, H] to one length, with zeros between the common head and the rest of each.

    So both the heads and the ends are aligned.

    Returns:
        inputs_BLH, and the attention mask_BL (int64; 0 where padded).
    """
    longest = max(len(sequence) for sequence in embeds)
    inputs_BLH = embeds[0].new_zeros(len(embeds), longest, embeds[0].shape[1])
    mask_BL = torch.zeros(inputs_BLH.shape[:2], dtype=torch.int64, device=inputs_BLH.device)
    for row, sequence in enumerate(embeds):
        rest = len(sequence) - head
        inputs_BLH[row, :head], inputs_BLH[row, longest - rest :] = sequence[:head], sequence[head:]
        mask_BL[row, :head] = mask_BL[row, longest - rest :] = 1
    return inputs_BLH, mask_BL
