"""PruMerge's merge equals the published loop over tokens."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.benchmark.merge_loop import merge_loop
from trim.cosine import unit_vectors
from trim.prumerge import merge_neighbours


@settings(max_examples=60, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([40, 196, 576]), st.integers(1, 39), st.integers(1, 32))
def test_the_loop_and_the_merge_agree(seed, patches, kept, neighbours):
    generator = torch.Generator().manual_seed(seed)
    x_ND, keys_ND = torch.randn(2, patches, 24, generator=generator)
    scores_N = torch.rand(patches, generator=generator)
    kept_k = torch.randperm(patches, generator=generator)[:kept]
    inputs = (x_ND, scores_N, unit_vectors(keys_ND)[0], kept_k, neighbours)
    torch.testing.assert_close(merge_neighbours(*inputs), merge_loop(*inputs), rtol=1e-4, atol=1e-4)


def test_the_published_loop_fails_for_an_image_of_few_patches():
    """The loop requires `neighbours` other tokens; the merge uses as many as exist."""
    inputs = (torch.randn(5, 3), torch.rand(5), torch.eye(5).double(), torch.tensor([2]), 32)
    with pytest.raises(RuntimeError):
        merge_loop(*inputs)
    assert merge_neighbours(*inputs).shape == (2, 3)
