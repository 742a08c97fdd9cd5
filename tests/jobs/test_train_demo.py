"""`trimline train_demo` in miniature: real pictures, real models, few steps."""

import json

import pytest
from transformers import AutoProcessor, AutoTokenizer, CLIPModel, LlavaForConditionalGeneration

from pipeline.models.checkpoints.fit import check_fit
from tests.support.commands import TRIMLINE, trimline
from tests.support.processes import end_session, start

MINIATURE = {
    "train_pictures": 64,
    "dense_pictures": 64,
    "val_pictures": 8,
    "probed_pictures": 2,
    "reported_pictures": 2,
    "validate_every": 4,
    "tower": {"steps": 8, "pictures": 5},
    "language": {
        **{"steps": 4, "mixed_steps": 2, "pictures": 4, "full_pictures": 2, "reduced_rows": 8},
        **{"drawn_steps": 2, "drawn_mixed_steps": 2, "drawn_pictures": 4},
    },
}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_recipe_in_miniature(tmp_path):
    """The real command makes checkpoints that transformers loads, and a card with figures."""
    overrides = [
        f"recipe.{name}.{key}={number}" if isinstance(value, dict) else f"recipe.{name}={value}"
        for name, value in MINIATURE.items()
        for key, number in (value.items() if isinstance(value, dict) else [("", 0)])
    ]
    work = [f"recipe.work={tmp_path}/work", f"recipe.output={tmp_path}/model"]
    result = trimline("train_demo", *overrides, *work)
    assert result.returncode == 0, result.stderr
    assert "report: answering questions about 2 pictures of the test split" in result.stdout
    model = tmp_path / "model"
    CLIPModel.from_pretrained(model / "clip")
    LlavaForConditionalGeneration.from_pretrained(model / "llava")
    AutoProcessor.from_pretrained(model / "llava")
    AutoTokenizer.from_pretrained(model / "clip")
    assert check_fit(model / "llava", model / "clip").feature_layer == 5
    report = json.loads((model / "report.json").read_text())
    assert report["trim_sign"] in (-1, 1)
    assert set(report["figures"]["test"]["arms"]) == {"full", "trim", "random", "trim_other_sign"}
    assert [line["step"] for line in report["logs"]["language"]] == [4, 8, 10]
    card = (model / "README.md").read_text()
    assert "requests about 2 pictures of the test split" in card and "{" not in card
    rerun = start([TRIMLINE, "train_demo", *overrides, *work], tmp_path)
    lines = []
    try:
        while (line := rerun.stdout.readline()) and not line.startswith("report: answering"):
            lines.append(line)
    finally:
        end_session(rerun.pid)
    assert line.startswith("report: answering"), rerun.stderr.read()
    assert lines and not any("step" in line for line in lines), "a finished part is not trained again"
