"""A shard that could not be read whole is told by its URI wherever it is told."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.common.entry import run_command
from jobs.common.outcome import show_outcome
from pipeline.evaluate.base import Reference
from pipeline.evaluate.join import choose_join
from pipeline.output.failed_shards import not_read_whole
from pipeline.output.footers import FOOTER, KEYS
from pipeline.output.opened import open_output
from pipeline.output.summary import read_summary, summarise
from pipeline.report.measure import measure_run
from pipeline.report.rows import requests_of_run
from pipeline.run.config import Outcome
from pipeline.sources.parquet import Parquet
from pipeline.status.status import Look, look
from pipeline.support.errors import ConfigError
from pipeline.verify.verify import Verification, verify
from tests.support.quick import HERE, quick_answer
from tests.support.tars import jpeg

BROKEN = os.fsdecode(b"part-3 \x1b[2J\ncaf\xe9.parquet")
SHOWN = r"part-3 \x1b[2J\ncaf\xe9.parquet"


@pytest.fixture
def output(tmp_path):
    """An output of five tables, the fourth of which is none."""
    (tmp_path / "in").mkdir()
    table = pa.table({"image": [jpeg(1)], "question": ["What?"]})
    for number in range(5):
        pq.write_table(table, tmp_path / "in" / f"part-{number}.parquet")
    (tmp_path / "in" / "part-3.parquet").unlink()
    (tmp_path / "in" / BROKEN).write_bytes(b"PAR1")
    quick_answer(Parquet(path=str(tmp_path / "in")), tmp_path / "out")
    return tmp_path / "out"


def without_uris(output):
    """Take away what outputs of 0.1.0 do not have: the URI in footers and in the summary."""
    for file in (output / "data").iterdir():
        table = pq.read_table(file)
        footer = json.loads(table.schema.metadata[FOOTER])
        del footer["source_uri"]
        pq.write_table(table.replace_schema_metadata({FOOTER: json.dumps(footer)}), file)
    summary = json.loads((output / "summary.json").read_text())
    del summary["repeated"]
    for failed in summary["failed_shards_named"]:
        del failed["uri"]
    (output / "summary.json").write_text(json.dumps(summary))


@pytest.mark.parametrize("is_old", [False, True], ids=["new", "of 0.1.0"])
def test_every_place_names_the_file(output, capsys, is_old):
    if is_old:
        without_uris(output)
    place = f"shard 3 (file://{output.parent}/in/{SHOWN}): the Parquet file cannot be opened"
    opened = open_output(str(output), HERE)
    assert run_command("status", [f"output={output}"]) == 0
    assert f"broken    {place}" in capsys.readouterr().out
    run_command("verify", [f"output={output}"])
    assert f"note     not read whole: {place}" in capsys.readouterr().out
    (status,) = look(Look(output=str(output)), HERE)
    assert status.failed_shard_uris.keys() == status.failed_shards.keys() == {3}
    with pytest.raises(ConfigError, match=r"could not read 1 shards whole: shard 3 \(") as refused:
        choose_join([Reference("x", "y", "?", ("a",))], True, opened).require_all(opened)
    assert f"(file://{output.parent}/in/part-3 " in str(refused.value)
    summary = summarise(str(output), opened.plan, opened.finished, HERE)
    assert summary.failed_shards_named[0].uri == opened.plan.line(3).uri
    assert read_summary(str(output), HERE) == summary
    show_outcome(Outcome(1, summary, summary.failed_shards_named[0].line, "run"), "out")
    assert place in capsys.readouterr().out


def test_the_report_and_the_footer_name_it(output):
    opened = open_output(str(output), HERE)
    (footer,) = (footer for footer in opened.footers() if footer.shard_error)
    assert footer.source_uri == opened.plan.line(3).uri
    assert KEYS in pq.read_metadata(output / "data" / footer.unit.file_name).metadata
    (note,) = measure_run(requests_of_run(opened), opened).notes
    assert note.startswith(f"not read whole: shard 3 (file://{output.parent}/in/part-3")


def test_many_broken_shards_are_counted(output):
    plan = open_output(str(output), HERE).plan
    notes = not_read_whole(plan, dict.fromkeys(range(4), "broken"), most=3)
    assert len(notes) == 4 and notes[-1] == "not read whole: 1 more shards"
    assert not_read_whole(plan, {9: "broken"}) == ["not read whole: shard 9: broken"]


def test_a_unit_of_a_shard_elsewhere_is_found(output):
    file = next(iter(sorted((output / "data").iterdir())))
    table = pq.read_table(file)
    footer = {**json.loads(table.schema.metadata[FOOTER]), "source_uri": "file:///elsewhere.parquet"}
    pq.write_table(table.replace_schema_metadata({FOOTER: json.dumps(footer)}), file)
    (verified,) = verify(Verification(output=str(output)), HERE)
    assert "a shard of uri file:///elsewhere.parquet, the plan has " in verified.findings[0].text
