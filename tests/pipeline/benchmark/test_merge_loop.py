"""PruMerge's merge gives what the published loop over tokens gives."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmark.merge_loop import merge_loop
from trim.cosine import unit_vectors
from trim.prumerge import merge_neighbours


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([40, 196, 576]), st.integers(1, 39), st.integers(1, 32))
def test_the_loop_and_the_merge_agree(seed, patches, kept, neighbours):
    generator = torch.Generator().manual_seed(seed)
    x_ND, keys_ND = torch.randn(2, patches, 24, generator=generator)
    scores_N = torch.rand(patches, generator=generator)
    kept_k = torch.randperm(patches, generator=generator)[:kept]
    given = (x_ND, scores_N, unit_vectors(keys_ND, "last_keys", 0), kept_k, neighbours)
    torch.testing.assert_close(merge_neighbours(*given), merge_loop(*given), rtol=1e-4, atol=1e-4)


def test_an_image_whose_patches_are_few_is_beyond_the_loop():
    """As published it wants `neighbours` other tokens; the merge takes those that there are."""
    given = (torch.randn(5, 3), torch.rand(5), torch.eye(5).double(), torch.tensor([2]), 32)
    with pytest.raises(RuntimeError):
        merge_loop(*given)
    assert merge_neighbours(*given).shape == (2, 3)
