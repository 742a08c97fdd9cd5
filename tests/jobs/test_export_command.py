"""`trimline export`: the written file and refused options."""

import json

from jobs.common.entry import run_command
from pipeline.sources.webdataset import WebDataset
from tests.support.quick import quick_answer
from tests.support.tars import write_tar


def test_export_writes_once_and_prints_the_row_count(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    source = WebDataset(path=str(write_tar(tmp_path / "a.tar", 5, questions=2, width=24)))
    quick_answer(source, tmp_path / "out", unit_samples=2)
    overrides = ["output=out", "to=answers.jsonl"]
    assert run_command("export", overrides) == 0
    assert capfd.readouterr().out == "7 rows: answers.jsonl\n"
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert sum(len(line["conversations"]) for line in lines) == 14
    assert run_command("export", overrides) == 2
    assert capfd.readouterr().err == "trimline export: to: answers.jsonl exists already\n"
    assert run_command("export", ["output=out"]) == 2
    assert "to must be given" in capfd.readouterr().err
