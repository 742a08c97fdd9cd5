"""Arms are scored against ground truth: right and wrong answers to the demo's scenes."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.compare.comparison import Comparison
from pipeline.compare.scores import sign_test
from pipeline.compare.terminal import comparison_tables, summary_text
from pipeline.demo.scenes import write_shards
from pipeline.evaluate.datasets.scenes import Scenes
from pipeline.evaluate.evaluate import Evaluation, evaluate
from pipeline.run.in_process import run_in_process
from pipeline.support.errors import ConfigError
from tests.pipeline.compare.made_arms import STORAGE, change, compared, copied
from tests.support.runs import make_config, rows


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Scenes:
    return Scenes(root=written(tmp_path_factory.mktemp("scenes")))


def written(root: Path) -> str:
    """Write two small shards of scenes with captions, questions and their answers."""
    list(write_shards(str(root), samples=3, samples_per_shard=2, split="val", seed=0, storage=STORAGE))
    return str(root)


@pytest.fixture(scope="module")
def answered(random_checkpoint, scenes, tmp_path_factory) -> Path:
    """The scenes answered by the random model, which is never right."""
    output = tmp_path_factory.mktemp("answered") / "o"
    source = scenes.source("", STORAGE)
    config = make_config(random_checkpoint, source, output, max_new_tokens=1, reducer="trim")
    run_in_process(type(config)(**{**vars(config), "task": scenes.task()}))
    return output


def with_right_answers(scenes: Scenes, answered: Path, to: Path, right: range) -> Path:
    """Copy an output, with right answers to the questions (captions not counted) of these numbers."""
    truth = {
        (reference.sample_key, reference.question_id): reference for reference in scenes.references(STORAGE)
    }
    number = iter(range(10**6))

    def edit(unit_rows: list[dict]) -> list[dict]:
        answers = []
        for row in unit_rows:
            reference = truth[row["sample_key"], row["question_id"]]
            is_right = "caption" in reference.groups or next(number) in right
            answers.append(row | {"prediction": reference.answers[0] if is_right else "who knows"})
        return answers

    return change(copied(answered, to), edit)


def questions(scenes: Scenes) -> int:
    return sum("caption" not in reference.groups for reference in scenes.references(STORAGE))


def test_accuracy_its_difference_and_mcnemar(scenes, answered, tmp_path):
    count = questions(scenes)
    assert count >= 3
    arms = {
        "full": with_right_answers(scenes, answered, tmp_path / "full", range(count)),
        "trim": with_right_answers(scenes, answered, tmp_path / "trim", range(1, count - 1)),
    }
    comparison = compared(tmp_path / "c", arms, dataset=scenes)
    pair = comparison["pairs"]["trim"]
    assert pair["mcnemar"] == {"b": 2, "c": 0, "p": sign_test(2, 0)}
    assert pair["score_difference"]["value"] == pytest.approx(-2 / count)
    assert pair["score_difference"]["low"] <= -2 / count <= pair["score_difference"]["high"] <= 0
    assert pair["figure_differences"]["caption_f1"]["value"] == 0
    for arm, output in arms.items():
        alone = evaluate(
            scenes, Evaluation(output=str(output), json=str(tmp_path / "e.json"), resamples=200), STORAGE
        )
        figures = comparison["arms"][arm]["figures"]
        assert {name: alone[name] for name in figures} == figures, "the figures of trimline evaluate"
    scores = pq.read_table(tmp_path / "c" / "comparison.parquet")["score.full"].to_pylist()
    truth = {(item.sample_key, item.question_id): item for item in scenes.references(STORAGE)}
    known = [bool(truth[row["sample_key"], row["question_id"]].answers) for row in rows(arms["full"])]
    assert scores == [1.0 if known else None for known in known]  # captions, too, by their F1
    assert "McNemar's p" in summary_text(Comparison.from_json(comparison))
    assert any(
        table.title == "Against the reference answers"
        for table in comparison_tables(Comparison.from_json(comparison))
    )


def test_identical_arms_score_alike(scenes, answered, tmp_path):
    original = with_right_answers(scenes, answered, tmp_path / "one", range(1))
    comparison = compared(
        tmp_path / "c", {"one": original, "again": copied(original, tmp_path / "again")}, dataset=scenes
    )
    pair = comparison["pairs"]["again"]
    assert pair["score_difference"] == {"value": 0, "low": 0, "high": 0}
    assert pair["mcnemar"] == {"b": 0, "c": 0, "p": 1.0}
    assert comparison["arms"]["one"]["figures"] == comparison["arms"]["again"]["figures"]


def test_a_request_without_reference_is_named(scenes, answered, tmp_path):
    other = Scenes(root=written(tmp_path / "scenes"), caption=False)
    with pytest.raises(ConfigError, match="has no reference"):
        compared(tmp_path / "c", {"a": answered, "b": answered}, dataset=other)


def test_answers_cut_off_are_noted_for_each_arm(scenes, answered, tmp_path):
    def whole(unit_rows: list[dict]) -> list[dict]:
        return [row | {"finish_reason": "stop"} for row in unit_rows]

    cut = sum(row["finish_reason"] == "length" for row in rows(answered))
    assert cut, "the random model does not stop by itself"
    arms = {"cut": answered, "whole": change(copied(answered, tmp_path / "whole"), whole)}
    notes = compared(tmp_path / "c", arms, dataset=scenes)["notes"]
    assert [note for note in notes if "cut off" in note] == [
        f"cut: {cut} answers were cut off at decoding.max_new_tokens=1, where published runs have 64."
    ]


def test_a_part_of_a_dataset_is_noted(scenes, answered, tmp_path):
    def first(unit_rows: list[dict]) -> list[dict]:
        return unit_rows[:1]

    parts = {name: change(copied(answered, tmp_path / name), first) for name in "ab"}
    comparison = compared(tmp_path / "c", parts, dataset=scenes)
    count = sum(1 for _ in scenes.references(STORAGE))
    assert f"A part of the dataset: {comparison['requests']} of {count} questions." in comparison["notes"]
    assert np.isfinite(comparison["pairs"]["b"]["exact_agreement"]["value"])
