"""What a source has and a run does not use is counted in footers, summary, status and the end's table."""

import json
import os
from types import SimpleNamespace

import pytest

from jobs.common.outcome import show_outcome
from pipeline.output.summary import Summary
from pipeline.sources.images import Images
from pipeline.sources.webdataset import WebDataset
from pipeline.status.status import Look, look
from pipeline.status.terminal import lines
from pipeline.storage.uris import Storage
from pipeline.support.census import Census, Reason
from pipeline.support.errors import ConfigError
from pipeline.verify.verify import Verification, verify
from tests.support.quick import quick_answer
from tests.support.runs import read_units
from tests.support.tars import jpeg, write_members

HERE = Storage()


def summary_of(output) -> Summary:
    return Summary.from_json(json.loads((output / "summary.json").read_text()))


@pytest.fixture
def tars(tmp_path):
    """Two tars beside a file that is none; one of them has nothing that is an image."""
    folder = tmp_path / "in"
    folder.mkdir()
    odd = [("a.cls", b"1"), ("\x1b[2J[red]b.jpg.html", b"")]
    samples = [(f"{number}.jpg", jpeg(number)) for number in range(4)]
    write_members(folder / "0.tar", [odd[0], *samples[:2], *odd, *samples[2:], ("._3.jpg", b"")])
    write_members(folder / "1.tar", odd)
    (folder / "labels.csv").write_text("a,b")
    return folder


def test_members_are_counted_once_whatever_is_resumed(tars, tmp_path):
    quick_answer(WebDataset(path=str(tars)), tmp_path / "out", unit_samples=2)
    census = summary_of(tmp_path / "out").census
    units = read_units(tmp_path / "out")
    first, second = (footer["census"] for _, footer in list(units.values())[:2])
    assert first["passed_over"] == {Reason.OTHER_TYPE: 3} and second["passed_over"] == {Reason.HIDDEN: 1}
    assert (census["images"], census["sidecars"]) == (4, 0)
    assert census["passed_over"] == {Reason.OTHER_TYPE: 3 + 2 + 1, Reason.HIDDEN: 1}
    for name in units:
        (tmp_path / "out" / "data" / name).unlink()
        quick_answer(WebDataset(path=str(tars)), tmp_path / "out", unit_samples=2)
        assert summary_of(tmp_path / "out").census == census, f"{name} was made again"


def test_a_tar_without_a_sample_is_an_error_that_names_what_is_there(tars, tmp_path):
    quick_answer(WebDataset(path=str(tars)), tmp_path / "out")
    (failed,) = summary_of(tmp_path / "out").failed_shards_named
    assert failed.shard == 1
    assert failed.error.startswith("it has no sample, but 2 entries: type that is not read: 2 (a.cls, ")
    (verified,) = verify(Verification(output=str(tmp_path / "out"), deep=True), HERE)
    assert verified.findings == [], "the source breaks off where the run did"


def test_status_and_the_table_tell_and_no_name_commands_the_terminal(tars, tmp_path, capsys):
    quick_answer(WebDataset(path=str(tars)), tmp_path / "out")
    (status,) = look(Look(output=str(tmp_path / "out")), HERE)
    state = "\n".join(lines(status))
    outcome = SimpleNamespace(summary=summary_of(tmp_path / "out"), run_id="run", message="done", notes=())
    show_outcome(outcome, "out")
    table = capsys.readouterr().out
    for text in (state, table):
        assert f"{Reason.OTHER_TYPE}" in text and "a.cls" in text and "[red]" in text
        assert "\x1b[2J" not in text


def test_a_folders_files_are_all_accounted_for(tmp_path):
    folder = tmp_path / "in"
    for name in ("a.jpg", "a.json", "b.png", "b.xyz", "c.txt", "d.zip", ".h/a.jpg", "._b.png", "e/f.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(0) if name.endswith(("jpg", "png")) else b'{"question": "what?"}')
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    quick_answer(Images(path=str(folder)), tmp_path / "out")
    census = Census.from_json(summary_of(tmp_path / "out").census)
    assert (census.images, census.sidecars) == (3, 1)
    assert census.passed_over == {
        Reason.OTHER_TYPE: 1,
        Reason.NO_IMAGE: 1,
        Reason.ARCHIVE: 1,
        Reason.HIDDEN: 2,
        Reason.DANGLING: 1,
        Reason.SPECIAL: 1,
    }
    assert census.entries == 11


def test_a_source_of_which_nothing_is_read_names_what_is_there(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"no \.tar at .*: archive that is not read: 1 \(a\.zip\)"):
        list(WebDataset(path=str(tmp_path)).entries(HERE))
