"""Test TRIM against outputs of its authors' published code, one image each.

The published code rounds the tokens to float16.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import layer_norm

from tests.trim import oracle
from trim import Trim, VisualTokens

CASES = sorted((Path(__file__).parents[1] / "golden").glob("trim_*.npz"))


def load(path: Path) -> tuple[VisualTokens, Trim, np.ndarray, np.ndarray]:
    with np.load(path) as stored:
        case = {name: stored[name] for name in stored.files}
    features = torch.from_numpy(case["features"])
    weight, bias = torch.from_numpy(case["ln_weight"]), torch.from_numpy(case["ln_bias"])
    normed = layer_norm(features, features.shape[-1:], weight, bias, float(case["ln_eps"]))
    metric = normed @ torch.from_numpy(case["projection"]).T
    ratio = float(case["fixed_ratio"])
    x = VisualTokens(
        patches=features[None], metric=metric[None], text=torch.from_numpy(case["text_embed"])[None]
    )
    return x, Trim(keep_ratio=None if ratio < 0 else ratio), case["kept"], case["tokens"]


def test_both_rules_are_covered() -> None:
    rules = [load(path)[1].keep_ratio is None for path in CASES]
    assert len(rules) == 7 and any(rules) and not all(rules)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_keeps_what_the_published_code_keeps(path: Path) -> None:
    x, reducer, kept, tokens = load(path)
    (reduced,) = reducer(x)
    assert reduced.kept.tolist() == kept.tolist()
    torch.testing.assert_close(reduced.tokens, torch.from_numpy(tokens), rtol=2**-11, atol=2**-24)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_no_case_hangs_on_rounding(path: Path) -> None:
    """The nearest decision is much wider than any rounding difference of a float32 sum."""
    x, reducer, kept, _ = load(path)
    answer = oracle.trim(
        *(t[0].numpy() for t in (x.patches, x.metric, x.text)), keep_ratio=reducer.keep_ratio
    )
    assert answer.kept == kept.tolist()
    assert answer.margin > 1e-3


def test_neighbours_do_not_change_the_published_answer() -> None:
    """Images of the same size give the same answer in one batch as alone."""
    cases = [load(path) for path in CASES]
    cases = [c for c in cases if c[0].patches.shape == (1, 576, 64) and c[1].keep_ratio is None]
    assert len(cases) >= 3
    batch = VisualTokens(
        *(torch.cat([getattr(c[0], f) for c in cases]) for f in ("patches", "metric", "text"))
    )
    for reduced, (_, _, kept, _) in zip(Trim()(batch), cases, strict=True):
        assert reduced.kept.tolist() == kept.tolist()
