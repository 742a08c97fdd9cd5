"""`trimline finish`: the same end as a run's own, without Ray and models."""

import json

import pytest

from jobs.common.entry import run_command
from pipeline.sources.webdataset import WebDataset
from tests.support.quick import quick_answer
from tests.support.tars import jpeg, write_members, write_tar


@pytest.fixture
def source(tmp_path):
    for number in range(3):
        write_tar(tmp_path / "tars" / f"{number}.tar", 5, seed=number, questions=2, width=24)
    return WebDataset(path=str(tmp_path / "tars"))


def without_end(output):
    """Take away what `finish` makes; returns summary.json as it was."""
    summary = json.loads((output / "summary.json").read_text())
    for name in ("summary.json", "_SUCCESS"):
        (output / name).unlink(missing_ok=True)
    return summary


def finish(output, capfd, *overrides):
    """Run the command in this process; returns its exit status, what it prints, and its errors."""
    status = run_command("finish", [f"output={output}", *overrides])
    return status, *capfd.readouterr()


@pytest.mark.parametrize("with_sums", [True, False])
def test_the_summary_is_that_of_the_run(source, tmp_path, capfd, with_sums):
    output = tmp_path / "out"
    quick_answer(source, output, unit_samples=2)
    by_run = without_end(output)
    if not with_sums:
        for file in (output / "done").iterdir():
            file.unlink()
    status, printed, errors = finish(output, capfd)
    assert (status, errors) == (0, "")
    assert printed.endswith("\ndone\n") and "rows ok" in printed and f"output: {output} (run " in printed
    assert json.loads((output / "summary.json").read_text()) == by_run
    assert (output / "_SUCCESS").exists() and "by Trimline" in (output / "README.md").read_text()
    assert len(list((output / "done").iterdir())) == 6
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.is_file()}
    times.pop(output / "_SUCCESS")
    status, printed, _ = finish(output, capfd)
    assert status == 0 and printed.endswith("\nnothing to do: every shard was finished before\n")
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_an_unfinished_shard_is_named_with_its_slice(source, tmp_path, capfd):
    output = tmp_path / "out"
    quick_answer(source, output, unit_samples=2)
    without_end(output)
    for file in [*output.glob("data/000001-00000002-*"), *output.glob("data/000002-*")]:
        file.unlink()
    status, printed, errors = finish(output, capfd)
    assert (status, printed) == (1, "")
    assert "2 of 3 shards are not finished, the first is 1 (file://" in errors and "/1.tar)" in errors
    assert errors.endswith("; run the command that makes it again\n") and errors.count("\n") == 1
    (output / "slices").mkdir()
    note = {"slice": "1/2", "begun": 1.0, "host": "h", "first": 1, "stop": 3, "run_id": "r"}
    (output / "slices" / "1-of-2.json").write_text(json.dumps(note))
    assert finish(output, capfd)[2].endswith("; run slice=1/2 again, which makes it\n")
    assert not (output / "summary.json").exists() and not (output / "_SUCCESS").exists()


def test_each_arm_of_a_comparison_is_finished(source, tmp_path, capfd):
    quick_answer(source, tmp_path / "out", "full", "trim", unit_samples=2)
    by_run = [without_end(tmp_path / "out" / arm) for arm in ("full", "trim")]
    status, printed, _ = finish(tmp_path / "out", capfd)
    assert status == 0 and printed.count("\ndone\n") == 2
    assert [
        json.loads((tmp_path / "out" / arm / "summary.json").read_text()) for arm in ("full", "trim")
    ] == by_run


def test_failures_have_the_exit_status_of_the_run(source, tmp_path, capfd):
    path = tmp_path / "tars" / "1.tar"
    path.write_bytes(path.read_bytes()[:1500])
    output = tmp_path / "out"
    quick_answer(source, output, unit_samples=2)
    without_end(output)
    status, printed, _ = finish(output, capfd)
    assert status == 1 and "1 shards could not be read whole; shard 1 (file://" in printed
    assert not (output / "_SUCCESS").exists() and (output / "summary.json").exists()


def test_too_many_failed_rows(tmp_path, capfd):
    (tmp_path / "tars").mkdir()
    write_members(tmp_path / "tars" / "0.tar", [("a.jpg", jpeg(1)), ("a.json", b"{")])
    output = tmp_path / "out"
    quick_answer(WebDataset(path=str(tmp_path / "tars")), output, unit_samples=2)
    without_end(output)
    status, printed, _ = finish(output, capfd, "max_failed_fraction=0.5")
    assert status == 3 and "more than max_failed_fraction=0.5" in printed
    assert finish(output, capfd)[0] == 3, "as the run had it"
    status, printed, _ = finish(output, capfd, "max_failed_fraction=1")
    assert status == 0 and printed.endswith("\ndone\n")


def test_a_folder_without_an_output(tmp_path, capfd):
    status, _, errors = finish(tmp_path, capfd)
    assert status == 2 and "is no output of Trimline" in errors
