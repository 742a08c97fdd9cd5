"""`trimline verify`: its printed text, its exit status, and the arms of a comparison."""

import json

import pytest

from jobs.common.entry import run_command
from pipeline.sources.webdataset import WebDataset
from tests.support.quick import quick_answer, quick_outputs

FILE = "000000-00000002-00000004.parquet"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A single output in `out`, and a comparison of two arms in `arms`."""
    monkeypatch.chdir(tmp_path)
    quick_outputs(tmp_path)
    return tmp_path


def verify(capfd, *overrides):
    capfd.readouterr()
    status = run_command("verify", list(overrides))
    printed = capfd.readouterr()
    return status, printed.out.splitlines(), printed.err


def test_an_output_that_is_whole(place, capfd):
    assert verify(capfd, "output=out") == (0, ["1 shards, 3 units, 7 rows: consistent"], "")
    status, out, _ = verify(capfd, "output=out", "deep=true")
    assert (status, out) == (0, ["1 shards, 3 units, 7 rows: consistent, and proved against the source"])


def test_damage_is_status_1_until_it_is_repaired_and_run_again(place, capfd):
    (place / "out" / "data" / FILE).write_bytes(b"PAR1")
    (place / "out" / "data" / f".{FILE}.{'0a' * 16}.tmp").touch()
    status, out, err = verify(capfd, "output=out", "json=found.json")
    assert (status, err) == (1, "")
    assert out[0].startswith(f"damaged  shard 0 [2, 4) data/{FILE}: it cannot be read: ")
    assert out[-2] == "1 shards, 3 units, 4 rows: not consistent: 2 damaged, 1 leftover"
    assert out[-1].startswith("to go on: the same command with repair=true")
    (result,) = json.loads((place / "found.json").read_text())
    assert result["ok"] is False and result["findings"][0]["kind"] == "leftover"
    status, out, _ = verify(capfd, "output=out", "repair=true")
    assert status == 1 and f"removed  data/{FILE}" in out
    assert out[-1].startswith("to go on: run the command that made the output again")
    quick_answer(WebDataset(path=str(place / "a.tar")), place / "out", unit_samples=2)
    assert verify(capfd, "output=out")[0] == 0


def test_leftovers_alone_are_status_0(place, capfd):
    name = f"data/.{FILE}.{'0a' * 16}.tmp"
    (place / "out" / name).touch()
    status, out, _ = verify(capfd, "output=out")
    assert (status, out[0]) == (0, f"leftover {name}: a temporary file of a writer that was stopped")
    assert verify(capfd, "output=out", "repair=true")[0] == 0
    assert not (place / "out" / name).exists()


def test_every_arm_of_a_comparison(place, capfd):
    (place / "arms" / "comparison.json").write_text(
        json.dumps({"arms": {"full": {}, "lost": {}, "trim": {}}})
    )
    (place / "arms" / "trim" / "data" / FILE).unlink()
    status, out, _ = verify(capfd, "output=arms")
    assert status == 1
    assert out[0] == "arms/full:" and out[1].endswith("consistent") and out[2] == "arms/trim:"
    assert out[3] == "missing  shard 0 [2, 4): no file holds them"
    assert "arms/lost:" in out and any("run.json" in line for line in out)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "output must be given"),
        (["output=nowhere"], "output: nowhere is no output of Trimline"),
        (["output=out", "deep=perhaps"], "deep: "),
        (["output=out", "colour=red"], "colour"),
        (["output=out", "deep=true", "source.path=nowhere"], "source.path: nothing at "),
        (["output=out", "json=a.tar/x"], "json: "),
    ],
)
def test_wrong_options_are_refused_in_one_line(place, capfd, overrides, message):
    status, _, err = verify(capfd, *overrides)
    assert status == 2 and err.startswith("trimline verify: ") and message in err
    assert err.count("\n") == 1 and err.endswith("\n"), err
