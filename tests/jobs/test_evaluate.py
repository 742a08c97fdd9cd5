"""`trimline evaluate`: its table, its files, refused options."""

import json
from dataclasses import replace

import pytest

from jobs.common.entry import run_command
from pipeline.evaluate.datasets.yes_no import Pope
from pipeline.storage.uris import Storage
from tests.pipeline.evaluate import official


@pytest.fixture
def pope(tmp_path, monkeypatch):
    """POPE in `data/`, and in `answers/` the answer `Yes` to all requests but a failed one."""
    monkeypatch.chdir(tmp_path)
    dataset = Pope(root=str(official.pope(tmp_path / "data")))
    official.answer(dataset, tmp_path / "answers", lambda name, _: None if name == "random/1" else "Yes")
    return tmp_path


def evaluate(capfd, *overrides: str) -> tuple[int, str, str]:
    capfd.readouterr()
    status = run_command("evaluate", list(overrides))
    printed = capfd.readouterr()
    return status, printed.out, printed.err


POPE = ("output=answers", "dataset=pope", "dataset.root=data")


def test_the_table_and_the_file(pope, capfd):
    before = sorted((pope / "data").rglob("*"))
    status, out, err = evaluate(capfd, *POPE, "resamples=200")
    assert (status, err) == (0, "")
    assert "Pope: 6 requests" in out and "1 rows failed: counted as wrong" in out
    assert "random: f1" in out and out.splitlines()[-1] == "answers/evaluation.json"
    evaluation = json.loads((pope / "answers" / "evaluation.json").read_text())
    accuracy = evaluation["figures"]["accuracy"]
    assert accuracy["value"] == pytest.approx(1 / 6) and accuracy["low"] <= 1 / 6 <= accuracy["high"]
    assert evaluation["status"] == {"failed": 1, "ok": 5}
    assert evaluation["groups"]["popular"]["figures"]["recall"]["value"] == 1
    assert evaluation["bootstrap"] == {"resamples": 200, "seed": 0, "level": 0.95}
    assert sorted((pope / "data").rglob("*")) == before


def test_the_file_goes_to_the_given_path_and_is_the_same_every_time(pope, capfd):
    for name in ("a.json", "b.json"):
        assert evaluate(capfd, *POPE, f"json=figures/{name}", "resamples=20")[0] == 0
    assert (pope / "figures/a.json").read_bytes() == (pope / "figures/b.json").read_bytes()
    assert not (pope / "answers/evaluation.json").exists()


def test_help_names_the_datasets(capfd):
    status, out, _ = evaluate(capfd, "--help")
    assert status == 0 and "dataset: coco_caption, gqa, llava_bench" in out and "resamples: 1000" in out


def test_answers_for_a_judge_are_written(tmp_path, capfd, monkeypatch):
    from pipeline.evaluate.datasets.open_ended import MmVet

    monkeypatch.chdir(tmp_path)
    dataset = MmVet(root=str(official.mm_vet(tmp_path / "data")))
    official.answer(dataset, tmp_path / "answers", lambda *_: "x is 3")
    overrides = ("output=answers", "dataset=mm_vet", "dataset.root=data", "submission=mm-vet.json")
    status, out, _ = evaluate(capfd, *overrides)
    assert status == 0 and out.splitlines() == ["mm-vet.json", "answers/evaluation.json"]
    assert json.loads((tmp_path / "mm-vet.json").read_text()) == {"v1_0": "x is 3", "v1_1": "x is 3"}
    official.answer(dataset, tmp_path / "cut", lambda *_: "x is 3", longest=3)
    status, out, _ = evaluate(capfd, "output=cut", *overrides[1:])
    note = "2 answers were cut off at decoding.max_new_tokens=3, where published runs have 1024"
    assert status == 0 and out.splitlines() == [note, "mm-vet.json", "cut/evaluation.json"]
    status, _, err = evaluate(capfd, *overrides[:3])
    assert status == 2 and "need a judge: submission=FILE" in err


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("output=answers", "dataset=pope"), "dataset.root must be given"),
        (("dataset=pope", "dataset.root=data"), "output must be given"),
        (("output=answers", "dataset=cats", "dataset.root=data"), "cats"),
        (("output=nowhere", "dataset=pope", "dataset.root=data"), "nowhere is no output of Trimline"),
        (("output=answers", "dataset=pope", "dataset.root=void"), "void/coco/coco_pope_random.json"),
        ((*POPE, "dataset.categories=[odd]"), "coco_pope_odd.json"),
        ((*POPE, "dataset.categories=[random]"), "popular/1 is not among the dataset's"),
        ((*POPE, "resamples=-1"), "resamples must not be negative"),
        ((*POPE, "colour=red"), "colour"),
        ((*POPE, "dataset.colour=red"), "colour"),
        ((*POPE, "json=data/coco/coco_pope_random.json/x"), "json: "),
        ((*POPE, "submission=x.json"), "Pope has no submission format"),
        (("output=answers", "dataset=mme", "dataset.root=data"), "no question in"),
    ],
)
def test_wrong_options_are_refused_in_one_line(pope, capfd, overrides, message):
    status, out, err = evaluate(capfd, *overrides)
    assert (status, out) == (2, "")
    assert err.startswith("trimline evaluate: ") and message in err
    assert err.count("\n") == 1 and err.endswith("\n"), err


def test_a_datasets_source_and_task_run_and_are_scored(pope, capfd, monkeypatch):
    """The dataset's source and task run through the real stages with the random model."""
    from pipeline.run.in_process import run_in_process
    from tests.support.commands import compose

    dataset = Pope(root="data", categories=["random"])
    config = compose("model=random", "device=cpu", "reducer=trim", "decoding.max_new_tokens=2", "output=run")
    source = dataset.source(str(pope / "converted"), Storage())
    run_in_process(replace(config, source=source, task=dataset.task()))
    status, out, err = evaluate(
        capfd, "output=run", *POPE[1:], "dataset.categories=[random]", "resamples=10", "json=run.json"
    )
    assert (status, err) == (0, "")
    assert "Pope: 2 requests" in out
