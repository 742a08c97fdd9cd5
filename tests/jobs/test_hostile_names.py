"""No command's output obeys names and texts from data: each line is printable, and none is forged."""

import json
import os
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.common.entry import run_command
from jobs.common.error_lines import ErrorLines
from jobs.common.outcome import show_outcome
from pipeline.output.dataset_card import write_card
from pipeline.output.failed_shards import FailedShard
from pipeline.output.manifest import make_manifest
from pipeline.run.config import Outcome
from pipeline.sources.images import Images
from pipeline.sources.parquet import Parquet
from pipeline.storage.uris import Storage
from pipeline.support import log
from pipeline.support.census import Census, PassedOver, Reason
from pipeline.support.errors import RunError
from pipeline.support.plain_text import printable, printable_lines, traceback_text
from pipeline.support.table import Table, show
from tests.jobs.test_outcome import SUMMARY
from tests.support.quick import quick_answer
from tests.support.tars import jpeg

# Commands to a terminal, line breaks of every kind, reordering, markup, and a byte that is not UTF-8.
NAME = "x\x1b[2J\x1b]0;PWN\x07\nFORGED\rFORGED\x0bFORGED\x85FORGED\u2028FORGED\x9b2J\u202e[red]:cat:\udce9"
SHOWN = r"x\x1b[2J\x1b]0;PWN\x07\nFORGED\rFORGED\x0bFORGED\x85FORGED\u2028FORGED\x9b2J\u202e[red]:cat:\xe9"


def require_harmless(*texts, named=True):
    """Fail unless each line is printable and none begins with what a name has behind a line break."""
    for text in texts:
        for line in text.removesuffix("\n").split("\n"):
            assert line.isprintable(), ascii(line)
            assert not line.startswith("FORGED")
    assert not named or SHOWN in "".join(texts), "the name is not told: the test proves nothing"


@given(st.text(st.characters(categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp", "Zs", "Lu"])))
def test_any_text_is_printable_and_plain_text_stays(text):
    assert printable(text).isprintable()
    assert printable(text) == text or not text.isprintable()
    lines = printable_lines(text).split("\n")
    assert len(lines) == text.count("\n") + 1 and all(map(str.isprintable, lines))


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A working directory of a hostile name, with an output, a broken one, and their sources."""
    folder = tmp_path / NAME
    for name in ("in", "tables"):
        (folder / name).mkdir(parents=True)
    for number in range(3):
        image = folder / "in" / f"{NAME}{number}.jpg"
        image.write_bytes(jpeg(number))
        image.with_suffix(".txt").write_bytes(f"{NAME} what?".encode("utf-8", "surrogateescape"))
        image.with_suffix(".xyz").write_bytes(b"")
    (folder / "in" / f"{NAME}9.jpg").write_bytes(b"no image")
    with (folder / "tables" / f"{NAME}.parquet").open("wb") as file:
        pq.write_table(pa.table({NAME.replace("\udce9", "\xe9"): ["?"]}), file)
    (folder / "tables" / f"{NAME}2.parquet").write_bytes(b"PAR1")
    monkeypatch.chdir(folder)
    quick_answer(Images(path="in"), folder / "out", unit_samples=2)
    quick_answer(Parquet(path="tables"), folder / "broken")
    return folder


COMMANDS = [
    ("status", "output=out"),
    ("status", "output=broken"),
    ("status", "output=broken", "json=-"),
    ("verify", "output=out", "deep=true"),
    ("verify", "output=broken"),
    ("export", "output=out", "to=new.jsonl"),
    ("export", "output=out", "to=new", "format=webdataset"),
    ("export", "output=broken", "to=new", "format=parquet"),
    ("evaluate", "output=out", "dataset=pope", "dataset.root=."),
    ("annotate", "source.path=in/*.png", "source=images", "output=new"),
    ("annotate", "source=parquet", "source.path=in", "output=new"),
    ("report", "output=out"),
    ("report", "output=in"),
    ("status", "output=in"),
    ("convert", "from=in", "to=out"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_commands_over_hostile_names(hostile, capsys, command):
    run_command(command[0], command[1:])
    require_harmless(
        *capsys.readouterr(), named=command[:2] in [("status", "output=out"), ("verify", "output=broken")]
    )


@pytest.mark.parametrize("damage", ["gap", "foreign", "json"])
def test_what_verify_finds_is_printed_harmlessly(hostile, capsys, damage):
    first, *_ = sorted((hostile / "out" / "data").iterdir())
    if damage == "gap":
        first.unlink()
    elif damage == "foreign":
        (hostile / "out" / "data" / f"{NAME}.parquet").write_bytes(b"")
    else:
        (hostile / "out" / "run.json").write_text(json.dumps({NAME: 1}))
    assert run_command("verify", ["output=out", "deep=true"]) != 0
    require_harmless(*capsys.readouterr(), named=damage == "foreign")


def test_the_end_of_a_run(capsys):
    census = Census()
    census.pass_over(PassedOver(NAME, Reason.OTHER_TYPE))
    broken = [FailedShard(number, NAME, f"file:///{NAME}") for number in range(2)]
    summary = replace(
        SUMMARY,
        status={NAME: 1, "ok": 2},
        rows_by_node={NAME: 1, "m": 2},
        census=census.to_json(),
        failed_shards=2,
        failed_shards_named=broken,
    )
    show_outcome(Outcome(1, summary, f"failed: {broken[0].line}", NAME), NAME)
    require_harmless(capsys.readouterr().out)


def test_a_table(capsys):
    show(Table(NAME, (NAME, "figure"), [(NAME, 1.0), ("b", NAME)], (NAME, "a note")))
    out = capsys.readouterr().out
    require_harmless(out)
    assert out.count(SHOWN) == 5


def raised(error):
    try:
        raise error from ValueError(NAME)
    except type(error) as caught:
        return caught


@pytest.mark.parametrize("form", ["text", "json"])
def test_errors_and_crashes(capsys, form):
    lines = ErrorLines("annotate", [f"log={form}"])
    try:
        assert lines.fail(RunError(f"shard 0: {NAME}"), 1) == 1
        assert lines.crash(raised(KeyError(NAME))) == 1
        assert lines.crash(raised(RuntimeError(NAME))) == 1
        log.event("end", NAME, output=NAME, names=[NAME])
    finally:
        log.start("text", str)
    err = capsys.readouterr().err
    require_harmless(err, named=False)
    if form == "json":
        assert [json.loads(line)["event"] for line in err.splitlines()] == ["error", "crash", "crash", "end"]


def test_a_traceback_is_told_whole():
    text = traceback_text(raised(RuntimeError("first\nsecond\n  third")))
    assert text.startswith("ValueError: x") and "Traceback (most recent call last):" in text
    assert text.endswith("RuntimeError: first\n  second\n  third")


def test_the_data_set_card_is_no_markup_of_a_name(tmp_path):
    manifest = make_manifest("out", {"task": NAME}, {})
    summary = replace(SUMMARY, source=f"file:///{os.fsencode(NAME).decode('latin-1')}`</code><script>`")
    write_card(str(tmp_path), manifest, summary, Storage())
    card = (tmp_path / "README.md").read_text()
    require_harmless(card, named=False)
    assert "`<script>" not in card and card.count("```") == 4
