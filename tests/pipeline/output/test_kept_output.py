"""Outputs that version 0.1.0 made stay readable, and keep their fingerprints."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.common.entry import run_command
from pipeline.output.footers import FOOTER, Footer
from pipeline.output.opened import open_output
from pipeline.output.summary import read_summary
from pipeline.storage.uris import Storage

KEPT = Path(__file__).parents[2] / "golden" / "output_0_1_0"
MADE_IN = "file:///tmp/output_0_1_0"
MADE_AT = 1_700_000_000  # the source's modification time, which its plan holds
HERE = Storage()


@pytest.fixture
def kept(tmp_path):
    """A copy of the kept outputs and of their source, as old as it was."""
    shutil.copytree(KEPT, tmp_path / "kept")
    for file in (tmp_path / "kept" / "source").iterdir():
        os.utime(file, (MADE_AT, MADE_AT))
    return tmp_path / "kept"


@pytest.fixture
def in_place(kept):
    """The same, as if the outputs had been made here: a rerun wants its source where the plan has it."""
    for plan in kept.rglob("plan/*.parquet"):
        table = pq.read_table(plan)
        uris = pc.replace_substring(table["uri"], MADE_IN, f"file://{kept}")
        table = table.set_column(table.schema.get_field_index("uri"), table.schema.field("uri"), uris)
        metadata = {
            name: value.replace(MADE_IN.encode(), f"file://{kept}".encode())
            for name, value in table.schema.metadata.items()
        }
        pq.write_table(table.replace_schema_metadata(metadata), plan)
    return kept


def contents(folder):
    """Every file below a folder with its bytes."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def configuration(kept):
    """The overrides under which the outputs were made, with the source where it lies now."""
    return [
        *("source=webdataset", f"source.path={kept}/source", "task=caption_vqa"),
        *("decoding.max_new_tokens=12", "device=cpu"),
    ]


def unit_files(folder):
    return sorted(folder.rglob("data/*.parquet"))


def test_the_same_configuration_has_the_same_fingerprint_and_nothing_to_do(in_place, capsys):
    before = contents(in_place / "run")
    assert run_command("annotate", [*configuration(in_place), f"output={in_place}/run"]) == 0
    assert "nothing to do: every shard was finished before" in capsys.readouterr().out
    assert contents(in_place / "run") == before


def test_another_configuration_has_another_fingerprint(in_place, capsys):
    assert run_command("annotate", [*configuration(in_place), f"output={in_place}/run", "seed=1"]) == 2
    assert "was made with another configuration: seed was 0, is 1" in capsys.readouterr().err


def test_it_is_proved_against_its_source(kept, capsys):
    assert run_command("verify", [f"output={kept}/run", f"source.path={kept}/source", "deep=true"]) == 0
    assert capsys.readouterr().out == (
        "1 shards, 1 units, 19 rows: consistent, and proved against the source\n"
    )


def test_footers_and_the_summary_are_written_as_they_were(kept):
    for file in unit_files(kept):
        text = pq.read_metadata(file).metadata[FOOTER].decode()
        assert json.dumps(Footer.from_json(json.loads(text)).to_json()) == text
    for folder in {file.parents[1] for file in unit_files(kept)}:
        summary = read_summary(str(folder), HERE)
        assert summary is not None
        assert json.dumps(summary.to_json(), indent=2) == (folder / "summary.json").read_text()


def test_every_command_on_finished_outputs_reads_it(kept, capsys):
    output = f"output={kept}/run"
    assert run_command("status", [output, "json=-"]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["state"], status["units"], status["rows"]) == ("finished", 1, 19)
    assert status["failed_shards"] == {} and status["tokens"]["visual_tokens_full"] == 19 * 576
    dataset = ["dataset=scenes", f"dataset.root={kept}/source", "resamples=10"]
    assert run_command("evaluate", [output, *dataset]) == 0
    evaluation = json.loads((kept / "run" / "evaluation.json").read_text())
    assert evaluation["questions"] == 19 and evaluation["status"] == {"ok": 19}
    assert run_command("report", [output, "report.gallery=2"]) == 0
    assert "Trimline run" in (kept / "run" / "report.txt").read_text()


def test_it_can_be_exported_with_its_images(kept):
    folder = f"output={kept}/run"
    assert run_command("export", [folder, f"to={kept}/a.jsonl"]) == 0
    rows = [json.loads(line) for line in (kept / "a.jsonl").read_text().splitlines()]
    assert sum(len(row["conversations"]) for row in rows) == 2 * 19
    shards = [f"to={kept}/shards", "format=webdataset", f"source.path={kept}/source"]
    assert run_command("export", [folder, *shards]) == 0
    assert len(list((kept / "shards").iterdir())) == 1


def test_the_arms_of_a_comparison_are_compared_again(in_place):
    before = {arm: contents(in_place / "compared" / arm) for arm in ("full", "trim")}
    earlier = json.loads((in_place / "compared" / "comparison.json").read_text())
    compared = [*configuration(in_place), f"output={in_place}/compared", "compare.resamples=20"]
    assert run_command("compare", compared) == 0
    again = json.loads((in_place / "compared" / "comparison.json").read_text())
    assert {arm: contents(in_place / "compared" / arm) for arm in before} == before
    for arm, figures in earlier["arms"].items():
        assert {name: again["arms"][arm][name] for name in figures} == figures
    assert (in_place / "compared" / "report.html").is_file()


def test_an_output_is_opened_with_what_it_holds(kept):
    output = open_output(str(kept / "run"), HERE).require_finished()
    (footer,) = output.footers()
    assert (footer.totals.rows, footer.samples, footer.totals.ok) == (19, 2, 19)
    assert output.names() == [footer.unit.file_name]
    assert output.plan.source.endswith("/source")
    assert len(output.questions().task.prompts) == 1
