"""Test that outputs of version 0.1.0 stay readable and keep their fingerprints."""

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
MADE_AT = 1_700_000_000  # the source's modification time, as stored in the plan
HERE = Storage()


@pytest.fixture
def kept_outputs(tmp_path):
    """Copy the kept outputs and their source, with the source's old modification time."""
    shutil.copytree(KEPT, tmp_path / "kept")
    for file in (tmp_path / "kept" / "source").iterdir():
        os.utime(file, (MADE_AT, MADE_AT))
    return tmp_path / "kept"


@pytest.fixture
def in_place(kept_outputs):
    """Move the kept outputs here: a rerun needs its source at the path in the plan."""
    for plan in kept_outputs.rglob("plan/*.parquet"):
        table = pq.read_table(plan)
        uris = pc.replace_substring(table["uri"], MADE_IN, f"file://{kept_outputs}")
        table = table.set_column(table.schema.get_field_index("uri"), table.schema.field("uri"), uris)
        metadata = {
            name: value.replace(MADE_IN.encode(), f"file://{kept_outputs}".encode())
            for name, value in table.schema.metadata.items()
        }
        pq.write_table(table.replace_schema_metadata(metadata), plan)
    return kept_outputs


def contents(folder):
    """Read every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def configuration(kept_outputs):
    """List the overrides that made the outputs, with the source's present path."""
    return [
        *("source=webdataset", f"source.path={kept_outputs}/source", "task=caption_vqa"),
        *("decoding.max_new_tokens=12", "device=cpu"),
    ]


def unit_files(folder):
    return sorted(folder.rglob("data/*.parquet"))


def test_the_same_configuration_has_the_same_fingerprint_and_nothing_to_do(in_place, capsys):
    contents_before = contents(in_place / "run")
    assert run_command("annotate", [*configuration(in_place), f"output={in_place}/run"]) == 0
    assert "nothing to do: every shard was finished before" in capsys.readouterr().out
    assert contents(in_place / "run") == contents_before


def test_another_configuration_has_another_fingerprint(in_place, capsys):
    assert run_command("annotate", [*configuration(in_place), f"output={in_place}/run", "seed=1"]) == 2
    assert "was made with another configuration: seed was 0, is 1" in capsys.readouterr().err


def test_the_output_is_verified_against_its_source(kept_outputs, capsys):
    overrides = [f"output={kept_outputs}/run", f"source.path={kept_outputs}/source", "deep=true"]
    assert run_command("verify", overrides) == 0
    assert capsys.readouterr().out == (
        "1 shards, 1 units, 19 rows: consistent, and proved against the source\n"
    )


def test_footers_and_the_summary_are_rewritten_without_change(kept_outputs):
    for file in unit_files(kept_outputs):
        text = pq.read_metadata(file).metadata[FOOTER].decode()
        assert json.dumps(Footer.from_json(json.loads(text)).to_json()) == text
    for folder in {file.parents[1] for file in unit_files(kept_outputs)}:
        summary = read_summary(str(folder), HERE)
        assert summary is not None
        assert json.dumps(summary.to_json(), indent=2) == (folder / "summary.json").read_text()


def test_every_command_for_finished_outputs_reads_the_output(kept_outputs, capsys):
    output = f"output={kept_outputs}/run"
    assert run_command("status", [output, "json=-"]) == 0
    (status,) = json.loads(capsys.readouterr().out)
    assert (status["state"], status["units"], status["rows"]) == ("finished", 1, 19)
    assert status["failed_shards"] == {} and status["tokens"]["visual_tokens_full"] == 19 * 576
    dataset = ["dataset=scenes", f"dataset.root={kept_outputs}/source", "resamples=10"]
    assert run_command("evaluate", [output, *dataset]) == 0
    evaluation = json.loads((kept_outputs / "run" / "evaluation.json").read_text())
    assert evaluation["questions"] == 19 and evaluation["status"] == {"ok": 19}
    assert run_command("report", [output, "report.gallery=2"]) == 0
    assert "Trimline run" in (kept_outputs / "run" / "report.txt").read_text()


def test_the_output_is_exported_with_its_images(kept_outputs):
    folder = f"output={kept_outputs}/run"
    assert run_command("export", [folder, f"to={kept_outputs}/a.jsonl"]) == 0
    rows = [json.loads(line) for line in (kept_outputs / "a.jsonl").read_text().splitlines()]
    assert sum(len(row["conversations"]) for row in rows) == 2 * 19
    shards = [f"to={kept_outputs}/shards", "format=webdataset", f"source.path={kept_outputs}/source"]
    assert run_command("export", [folder, *shards]) == 0
    assert len(list((kept_outputs / "shards").iterdir())) == 1


def test_the_arms_of_a_comparison_are_compared_again(in_place):
    contents_before = {arm: contents(in_place / "compared" / arm) for arm in ("full", "trim")}
    earlier = json.loads((in_place / "compared" / "comparison.json").read_text())
    compared = [*configuration(in_place), f"output={in_place}/compared", "compare.resamples=20"]
    assert run_command("compare", compared) == 0
    comparison = json.loads((in_place / "compared" / "comparison.json").read_text())
    assert {arm: contents(in_place / "compared" / arm) for arm in contents_before} == contents_before
    for arm, figures in earlier["arms"].items():
        assert {name: comparison["arms"][arm][name] for name in figures} == figures
    assert (in_place / "compared" / "report.html").is_file()


def test_the_output_is_opened_from_python(kept_outputs):
    output = open_output(str(kept_outputs / "run"), HERE).require_finished()
    (footer,) = output.footers()
    assert (footer.totals.rows, footer.samples, footer.totals.ok) == (19, 2, 19)
    assert output.names() == [footer.unit.file_name]
    assert output.plan.source.endswith("/source")
    assert len(output.questions().task.prompts) == 1
