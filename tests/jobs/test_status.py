"""`trimline status`: its printed text; it changes no file."""

import json

import pytest

from jobs.common.entry import run_command
from tests.support.quick import quick_outputs


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An unfinished output in `out`, and a comparison of two arms in `arms`, one of them unfinished."""
    monkeypatch.chdir(tmp_path)
    quick_outputs(tmp_path)
    for output in ("out", "arms/trim"):
        (tmp_path / output / "_SUCCESS").unlink()
        (tmp_path / output / "data" / "000000-00000004-00000005-end.parquet").unlink()
    return tmp_path


def status(capfd, *overrides):
    capfd.readouterr()
    code = run_command("status", list(overrides))
    printed = capfd.readouterr()
    return code, printed.out, printed.err


def everything(place):
    return {
        path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in place.rglob("*")
    }


def test_an_unfinished_output(place, capfd):
    before = everything(place)
    code, out, err = status(capfd, "output=out")
    assert (code, err) == (0, "")
    assert out.splitlines()[1].startswith("state     running, it seems: the newest unit came 0:00:0")
    assert "done      4 of an unknown number samples, in 2 units\nshards    0 of 1 finished, 1 begun\n" in out
    assert everything(place) == before, "the run is not touched"


def test_every_arm_of_a_comparison_and_json(place, capfd):
    code, out, _ = status(capfd, "output=arms")
    assert code == 0 and out.startswith("arms/full:\n") and "\narms/trim:\n" in out
    _, printed, _ = status(capfd, "output=arms", "json=-")
    full, trim = json.loads(printed)
    assert (full["state"], full["samples"], full["estimated"]) == ("finished", 5, [])
    assert (trim["state"], trim["samples"], trim["samples_in_all"]) == ("running", 4, None)
    assert len(full["run_id"]) == 16 and full["run_id"] != trim["run_id"]
    assert status(capfd, "output=arms", "json=state.json")[0] == 0
    assert [arm["units"] for arm in json.loads((place / "state.json").read_text())] == [3, 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "output must be given"),
        (["output=nowhere"], "output: nowhere is no output of Trimline"),
        (["output=out", "footers=1"], "footers must be at least 2"),
        (["output=out", "colour=red"], "colour"),
        (["output=out", "json=a.tar/x"], "json: "),
    ],
)
def test_wrong_options_are_refused_in_one_line(place, capfd, overrides, message):
    code, _, err = status(capfd, *overrides)
    assert code == 2 and err.startswith("trimline status: ") and message in err
    assert err.count("\n") == 1 and err.endswith("\n"), err
