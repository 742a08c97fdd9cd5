"""`dataset=NAME` sets the source and the task of a run."""

import json

import pyarrow.parquet as pq
import pytest

from jobs.common.entry import run_command
from pipeline.output.opened import open_output
from pipeline.report.pictures import images_of
from pipeline.run.in_process import run_in_process
from pipeline.sources.jsonl import Jsonl
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError
from tests.pipeline.evaluate import official
from tests.support.commands import begin, compose


@pytest.fixture
def pope(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    official.pope(tmp_path / "data")
    return ("dataset=pope", "dataset.root=data", "model=random", "device=cpu")


def test_a_dataset_is_annotated_and_scored_by_its_name(pope, tmp_path, capfd):
    config = compose(*pope, "output=answers", "decoding.max_new_tokens=2")
    assert isinstance(config.source, Jsonl)
    assert config.task.suffix == "\nAnswer the question using a single word or phrase."
    assert not list((tmp_path / "data").rglob("*.jsonl")), "nothing is written into the set's own folder"
    run_in_process(config)
    rows = pq.read_table("answers/data").to_pylist()
    assert len(rows) == 6
    assert all(row["question"].endswith(config.task.suffix) for row in rows)
    capfd.readouterr()
    assert run_command("evaluate", ["output=answers", "dataset=pope", "dataset.root=data"]) == 0
    assert "Pope: 6 requests" in capfd.readouterr().out
    output = open_output("answers", Storage())
    assert images_of(output).source == config.source, "run.json records the real source"
    configuration = output.manifest.configuration
    assert configuration["source"]["_target_"] == "pipeline.sources.jsonl.Jsonl"
    assert json.dumps(configuration["task"]["suffix"]) in json.dumps(configuration)


def test_a_dataset_brings_the_length_of_its_answers(pope, tmp_path):
    official.mm_vet(tmp_path / "vet")
    assert compose(*pope).decoding.max_new_tokens == 128
    mm_vet = ("dataset=mm_vet", "dataset.root=vet", *pope[2:])
    assert compose(*mm_vet).decoding.max_new_tokens == 1024
    assert compose(*mm_vet, "decoding.max_new_tokens=50").decoding.max_new_tokens == 50
    assert compose(*mm_vet, "dataset.max_new_tokens=60").decoding.max_new_tokens == 60
    assert compose(*mm_vet).settings["decoding"]["max_new_tokens"] == 1024, "run.json holds the number"
    assert compose(*pope[2:]).decoding.max_new_tokens == 64


def test_a_dataset_of_ones_own_need_not_bring_a_length(pope, tmp_path):
    config = compose(*pope, "~dataset.max_new_tokens")
    assert config.decoding.max_new_tokens == 64


def test_an_output_of_shorter_answers_is_not_continued(pope):
    begin(*pope, "output=answers", "decoding.max_new_tokens=64")
    with pytest.raises(ConfigError, match=r"decoding\.max_new_tokens was 64, is 128; choose another output"):
        begin(*pope, "output=answers")
    begin(*pope, "output=answers", "decoding.max_new_tokens=64")


def test_a_rerun_finds_the_same_source(pope):
    first, second = (compose(*pope, "output=answers").source for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    "override", ["source=images", "source.path=elsewhere", "task=caption", "task.suffix=x"]
)
def test_a_dataset_excludes_a_separate_source_or_task(pope, capfd, override):
    capfd.readouterr()
    assert run_command("annotate", [*pope, override]) == 2
    assert capfd.readouterr().err == f"trimline annotate: {override}: dataset=pope brings its own\n"
