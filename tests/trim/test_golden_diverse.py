"""Test DivPrune and CDPruner against outputs of their authors' published code, one image each.

It was run in float32; in float64 it keeps the same patches, so no case hangs on rounding.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.trim import oracle_baselines
from trim import CDPruner, DivPrune, VisualTokens
from trim.cosine import cosines
from trim.divprune import pick_farthest

GOLDEN = Path(__file__).parents[1] / "golden"
DIVPRUNE = sorted(GOLDEN.glob("divprune_*.npz"))
CDPRUNER = sorted(GOLDEN.glob("cdpruner_*.npz"))


def arrays(path: Path) -> dict[str, torch.Tensor]:
    with np.load(path) as stored:
        return {name: torch.from_numpy(stored[name]) for name in stored.files}


def cdpruner_case(path: Path, text_P: torch.Tensor) -> VisualTokens:
    case = arrays(path)
    embeddings = case["embeddings"][None]
    return VisualTokens(
        patches=embeddings, embeddings=embeddings, metric=case["metric"][None], text=text_P[None]
    )


def test_all_cases_are_there() -> None:
    assert [path.stem for path in DIVPRUNE + CDPRUNER] == [
        "divprune_0",
        "divprune_1",
        "cdpruner_0",
        "cdpruner_3",
    ]


@pytest.mark.parametrize("path", DIVPRUNE, ids=lambda path: path.stem)
def test_divprune(path: Path) -> None:
    """The order of choice is the published one, too, and the number is the published share of N."""
    case = arrays(path)
    embeddings, count = case["embeddings"][None], int(case["num_kept"])
    assert count == round(float(case["subset_ratio"]) * embeddings.shape[1])
    (reduced,) = DivPrune(count)(VisualTokens(patches=embeddings, embeddings=embeddings))
    assert reduced.kept.tolist() == case["kept"].tolist()
    assert pick_farthest(cosines(embeddings)[0], count)[0].tolist() == case["order"].tolist()
    assert oracle_baselines.divprune(case["embeddings"].numpy(), count)[0] == case["order"].tolist()


@pytest.mark.parametrize("path", CDPRUNER, ids=lambda path: path.stem)
def test_cdpruner(path: Path) -> None:
    """Relevance is the mean of the pieces' cosines: the cosine with the mean of the pieces' directions."""
    case = arrays(path)
    x = cdpruner_case(path, normalize(case["text"], dim=-1).mean(0))
    (reduced,) = CDPruner(int(case["num_kept"]))(x)
    assert reduced.kept.tolist() == case["kept"].tolist()


def test_the_mean_of_raw_pieces_is_not_what_was_published() -> None:
    case = arrays(CDPRUNER[1])
    (reduced,) = CDPruner(64)(cdpruner_case(CDPRUNER[1], case["text"].mean(0)))
    assert len(set(reduced.kept.tolist()) & set(case["kept"].tolist())) == 61
