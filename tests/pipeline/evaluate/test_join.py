"""Rows and references match one to one, or an error names the key; intervals are as wide as theory says."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluate.base import Metric, rates
from pipeline.evaluate.evaluate import evaluation_table
from pipeline.evaluate.score_intervals import group_intervals
from pipeline.support.errors import ConfigError
from tests.pipeline.evaluate import official
from tests.pipeline.evaluate.test_datasets import STORAGE, fixture, make, scored, values


def refused(dataset, output: Path, **options) -> str:
    with pytest.raises(ConfigError) as caught:
        scored(dataset, output, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_row_is_named(tmp_path):
    dataset = fixture("gqa", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "no", drop=0)
    message = refused(dataset, output)
    assert "1 of 3 questions have no row: 201307251; partial=true" in message
    evaluation = scored(dataset, output, partial=True)
    assert evaluation["scored"] == 2 and evaluation["questions"] == 3
    assert "a part of the dataset: 2 of 3 questions" in evaluation_table(evaluation).notes


def test_a_doubled_row_is_named(tmp_path):
    dataset = fixture("gqa", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "no", double=1)
    assert "is the second row of 202225914" in refused(dataset, output, partial=True)


def test_a_doubled_row_of_captions_is_named_by_its_image(tmp_path):
    dataset = fixture("coco_caption", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "a man", double=1)
    assert "is the second row of COCO_val2014_000000000073.jpg" in refused(dataset, output)


def test_a_row_of_another_dataset_is_named(tmp_path):
    gqa, textvqa = fixture("gqa", tmp_path), fixture("textvqa", tmp_path)
    output = official.answer(gqa, tmp_path / "out" / "o", lambda *_: "no")
    assert "000000-00000000-0000 has no reference: 201307251 is not among" in refused(textvqa, output)


def test_doubled_references_are_named(tmp_path):
    dataset = fixture("textvqa", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "no")
    file = Path(dataset.root) / dataset.annotations
    file.write_text(file.read_text().replace("34603", "34602"))
    assert "the official files hold 34602 twice" in refused(dataset, output)


def test_an_output_that_is_not_finished_is_refused(tmp_path):
    dataset = fixture("mme", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "no")
    sorted((output / "data").iterdir())[0].unlink()
    assert "is not finished: 1 of 1 shards are not, the first is 0" in refused(dataset, output)
    assert "is no output of Trimline" in refused(dataset, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("gqa", "testdev_balanced_questions.json", None, "nothing at"),
        ("gqa", "testdev_balanced_questions.json", "{", "testdev_balanced_questions.json: "),
        ("gqa", "testdev_balanced_questions.json", '{"1": {"imageId": "n"}}', "an entry lacks 'types'"),
        ("gqa", "testdev_balanced_questions.json", '{"1": 3}', "is not of the official form"),
        ("gqa", "testdev_balanced_questions.json", "{}", "no question in"),
        (
            "vqav2",
            "v2_mscoco_val2014_annotations.json",
            '{"annotations": []}',
            "has no answers of question_id",
        ),
        ("pope", "coco/coco_pope_random.json", '{"question_id": 1', "line 1: "),
        ("pope", "coco/coco_pope_random.json", "\n[]", "line 2 is no JSON object"),
        (
            "pope",
            "coco/coco_pope_random.json",
            '{"question_id": 1, "image": "a", "text": "?", "label": "Y"}',
            "question_id 1: the answer is 'Y', neither yes nor no",
        ),
        ("mme", "OCR/0001.txt", "Is it?\tYes\n", "OCR/0001.txt: it should hold two lines"),
        ("mme", "OCR/0003.txt", "Is it?\tYes\nIs it?\tNo\n", "OCR/0003.txt: there is no image of that name"),
        ("mmbench", "mmbench_dev_20230712.tsv", "index\tquestion\nx\ty\n", "mmbench_dev_20230712.tsv: "),
        ("seed_bench", "SEED-Bench.json", "[]", "no question in"),
        ("scienceqa_img", "pid_splits.json", '{"test": ["4"]', "pid_splits.json: "),
    ],
)
def test_a_file_that_is_missing_or_damaged_is_named(name, file, content, message, tmp_path):
    dataset = fixture(name, tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "no")
    if content is None:
        (Path(dataset.root) / file).unlink()
    else:
        (Path(dataset.root) / file).write_text(content)
    assert message in refused(dataset, output)


def test_fields_are_checked(tmp_path):
    for name, fields in (
        ("pope", {"categories": []}),
        ("pope", {"questions": "x.json"}),
        ("seed_bench", {"kinds": ["sound"]}),
        ("coco_caption", {"prompt": " "}),
        ("gqa", {"root": ""}),
    ):
        with pytest.raises(ConfigError, match="dataset"):
            make(name, **{"root": tmp_path, **fields}) if "root" not in fields else make(name, "")


def test_intervals_are_seeded_and_as_wide_as_theory_predicts():
    rng = np.random.default_rng(0)
    right = (rng.random(4000) < 0.7).astype(float)
    units = np.column_stack([right, np.ones(4000)])
    metric = Metric(lambda *_: (), rates("accuracy"))
    groups = {"half": np.arange(2000)}
    intervals = group_intervals(metric, units, groups, resamples=400, seed=1)
    again = group_intervals(metric, units, groups, resamples=400, seed=1)
    other = group_intervals(metric, units, groups, resamples=400, seed=2)
    assert intervals == again != other
    accuracy = intervals[""]["accuracy"]
    width = 2 * 1.96 * np.sqrt(0.7 * 0.3 / 4000)
    assert accuracy["value"] == pytest.approx(right.mean())
    assert accuracy["low"] < right.mean() < accuracy["high"]
    assert accuracy["high"] - accuracy["low"] == pytest.approx(width, rel=0.15)
    half = intervals["half"]["accuracy"]
    assert half["high"] - half["low"] == pytest.approx(width * np.sqrt(2), rel=0.15)


def test_without_resamples_there_are_no_intervals(tmp_path):
    from pipeline.evaluate.evaluate import Evaluation, evaluate

    dataset = fixture("gqa", tmp_path)
    output = official.answer(dataset, tmp_path / "out" / "o", lambda *_: "no")
    evaluation = evaluate(dataset, Evaluation(output=str(output), resamples=0), STORAGE)
    assert evaluation["figures"]["accuracy"] == {"value": pytest.approx(1 / 3)}
    assert values(evaluation["figures"])
