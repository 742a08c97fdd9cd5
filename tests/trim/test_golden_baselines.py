"""Test PruMerge, PruMerge+ and VisionZip against outputs of their authors' published code."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trim import oracle_baselines
from trim import PruMerge, VisionZip, VisualTokens

GOLDEN = Path(__file__).parents[1] / "golden"
PRUMERGE = sorted(GOLDEN.glob("prumerge*.npz"))
VISIONZIP = sorted(GOLDEN.glob("visionzip_*.npz"))
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def prumerge_case(path: Path) -> tuple[VisualTokens, PruMerge, torch.Tensor]:
    case = arrays(path)
    logits = case["query"][0] @ case["key"].T / case["key"].shape[-1] ** 0.5
    x = VisualTokens(
        patches=case["hidden_states"][None, 1:],
        last_cls_attention=logits.softmax(-1)[None, 1:],
        last_keys=case["key"][None, 1:],
    )
    return x, PruMerge(plus="plus" in path.stem), case["tokens"]


def visionzip_case(path: Path) -> tuple[VisualTokens, VisionZip, dict[str, torch.Tensor]]:
    case = arrays(path)
    x = VisualTokens(
        patches=case["hidden_states"][None, 1:],
        cls=case["hidden_states"][:1],
        cls_attention=case["cls_attention"].mean(0)[None, 1:],
        head_mean_keys=case["key_mean"][None, 1:],
    )
    return x, VisionZip(int(case["dominant"]) + 1, int(case["contextual"])), case


def test_all_cases_are_there() -> None:
    assert [path.stem for path in PRUMERGE] == [
        "prumerge_0",
        "prumerge_1",
        "prumerge_plus_0",
        "prumerge_plus_1",
    ]
    assert len(VISIONZIP) == 3


@pytest.mark.parametrize("path", PRUMERGE, ids=lambda path: path.stem)
def test_prumerge(path: Path) -> None:
    x, reducer, tokens = prumerge_case(path)
    (reduced,) = reducer(x)
    assert len(reduced.kept) == len(tokens) - 1
    torch.testing.assert_close(reduced.tokens, tokens, **ROUNDING)


@pytest.mark.parametrize("path", PRUMERGE, ids=lambda path: path.stem)
def test_prumerge_oracle(path: Path) -> None:
    x, reducer, tokens = prumerge_case(path)
    args = (t[0].numpy() for t in (x.patches, x.last_cls_attention, x.last_keys))
    expected = oracle_baselines.prumerge(*args, plus=reducer.plus)
    assert expected.margin > 0 and reducer(x)[0].kept.tolist() == expected.kept
    torch.testing.assert_close(torch.tensor(expected.tokens), tokens, **ROUNDING)


@pytest.mark.parametrize("path", VISIONZIP, ids=lambda path: path.stem)
def test_visionzip(path: Path) -> None:
    x, reducer, case = visionzip_case(path)
    (reduced,) = reducer(x)
    assert [0, *(reduced.kept + 1).tolist()] == case["kept"].tolist()
    torch.testing.assert_close(reduced.tokens, case["tokens"], **ROUNDING)


@pytest.mark.parametrize("path", VISIONZIP, ids=lambda path: path.stem)
def test_visionzip_oracle(path: Path) -> None:
    x, reducer, case = visionzip_case(path)
    args = (t[0].numpy() for t in (x.patches, x.cls, x.cls_attention, x.head_mean_keys))
    expected = oracle_baselines.visionzip(*args, dominant=reducer.dominant, contextual=reducer.contextual)
    torch.testing.assert_close(torch.tensor(expected.tokens), case["tokens"], **ROUNDING)


def test_a_budget_of_the_published_size_gives_the_published_tokens() -> None:
    for path in PRUMERGE:
        x, reducer, tokens = prumerge_case(path)
        (reduced,) = reducer(dataclasses.replace(x, budget=torch.tensor([len(tokens)])))
        torch.testing.assert_close(reduced.tokens, tokens, **ROUNDING)
