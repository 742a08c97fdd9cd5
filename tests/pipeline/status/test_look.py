"""The status of an output: sampled footers, the rate, and estimated totals."""

import json
import os
import shutil
import time

import pytest

from pipeline.output.units import Finished, Unit
from pipeline.sources.webdataset import WebDataset
from pipeline.status import sample
from pipeline.status.sample import choose, rate_of
from pipeline.status.status import Look, look
from pipeline.status.terminal import clock, lines
from pipeline.support.errors import ConfigError
from tests.support.footers import footer_of
from tests.support.quick import HERE, quick_answer, quick_prepare
from tests.support.tars import write_tar


@pytest.fixture
def output(tmp_path):
    """A finished output of three tars of 5 samples each, in units of 2."""
    for seed in range(3):
        write_tar(tmp_path / "tars" / f"{seed}.tar", 5, seed=seed, questions=2, width=24)
    quick_answer(WebDataset(path=str(tmp_path / "tars")), tmp_path / "out", unit_samples=2)
    return tmp_path / "out"


def stop(output, *shards, keep=1):
    """Make an output look stopped: delete all but the first units of these shards."""
    for name in ("_SUCCESS", "summary.json"):
        (output / name).unlink()
    for shard in shards:
        for file in sorted((output / "data").glob(f"{shard:06d}-*"))[keep:]:
            file.unlink()


def state_of(output, **options):
    (status,) = look(Look(output=str(output), **options), HERE)
    return status


def test_a_finished_output_is_described_by_its_summary(output, monkeypatch):
    monkeypatch.setattr(sample, "read_footer", None)  # no file is opened
    status = state_of(output)
    assert (status.state, status.estimated, status.counted_units) == ("finished", [], 9)
    assert (status.extent.samples, status.extent.samples_in_all, status.extent.shards_finished) == (15, 15, 3)
    assert status.rows == sum(status.status.values()) == 21
    assert (status.left_s, status.extent.samples_left, status.extent.begun) == (0.0, 0, [])


def test_an_unfinished_output_names_its_shards_and_estimates_totals(output):
    stop(output, 1, 2)
    status = state_of(output)
    assert status.state == "running" and status.quiet_s < 60
    assert (status.extent.units, status.extent.samples) == (5, 9)
    assert status.extent.samples_in_all == 15, "the other tars are as large as the finished one"
    assert status.estimated == ["state", "samples_in_all", "samples_left", "left_s"]
    assert [(shard["shard"], shard["samples"], shard["of"]) for shard in status.extent.begun] == [
        (1, 2, None),
        (2, 2, None),
    ]
    assert status.extent.begun[0]["uri"].endswith("/tars/1.tar")
    assert (status.counted_units, status.status) == (5, {"ok": status.rows})
    assert state_of(output, shards=1).extent.shards_begun == 2
    text = "\n".join(lines(status))
    assert "9 of about 15 samples (60.0%), in 5 units" in text
    assert "1 of 3 finished, 2 begun" in text and "shard 2: 2 samples, file://" in text


def test_without_a_finished_shard_the_total_is_unknown(output):
    stop(output, 0, 1, 2)
    status = state_of(output)
    assert (status.extent.samples_in_all, status.left_s) == (None, None)
    assert "6 of an unknown number samples, in 3 units" in "\n".join(lines(status))


def test_a_run_without_new_units_for_an_hour_counts_as_stopped(output):
    stop(output, 2)
    an_hour_ago = time.time() - 3600
    for file in (output / "data").iterdir():
        os.utime(file, (an_hour_ago, an_hour_ago))
    status = state_of(output)
    assert status.state == "stopped" and 3590 < status.quiet_s < 3660
    assert "stopped, it seems: the newest unit came 1:00:" in "\n".join(lines(status))


def test_all_units_without_success(output):
    (output / "_SUCCESS").unlink()
    assert state_of(output).state == "ended"


def test_a_run_that_has_only_planned(tmp_path):
    write_tar(tmp_path / "a.tar", 2, width=24)
    quick_prepare(WebDataset(path=str(tmp_path / "a.tar")), tmp_path / "out")
    status = state_of(tmp_path / "out")
    assert (status.state, status.quiet_s, status.rows, status.samples_per_s) == ("empty", None, 0, None)
    assert "no unit is there yet" in "\n".join(lines(status))


def test_an_outdated_summary_is_ignored(output):
    sorted((output / "data").iterdir())[0].unlink()
    status = state_of(output)
    assert (status.rows, status.counted_units, status.state) == (21 - 3, 8, "running")


def test_a_limited_number_of_footers_is_read_and_reported(output, monkeypatch):
    stop(output, 2)
    shutil.rmtree(output / "done")
    read, files = sample.read_footer, []
    monkeypatch.setattr(sample, "read_footer", lambda *args: (files.append(args[1]), read(*args))[1])
    status = state_of(output, footers=4)
    assert len(files) == len(set(files)) == 4 == status.counted_units
    assert status.estimated[-4:] == ["tokens", "failed_shard_count", "failed_shards", "passed_over"]
    assert "in 4 of 7 units" in "\n".join(lines(status))


def test_finished_shards_are_counted_by_their_sums(output, monkeypatch):
    stop(output, 2, keep=2)
    newest = time.time() + 10
    for file in (next((output / "data").glob("000000-*")), output / "done" / "000000.json"):
        os.utime(file, (newest, newest))
    read, files = sample.read_footer, []
    monkeypatch.setattr(sample, "read_footer", lambda *args: (files.append(args[1]), read(*args))[1])
    status = state_of(output, footers=2)
    assert len(files) == 2, "one for the rate, one of the shard that is not finished"
    assert (status.counted_units, status.extent.units, status.rows) == (7, 8, 14 + 3)
    assert "in 7 of 8 units" in "\n".join(lines(status))
    whole = state_of(output)
    assert (whole.counted_units, whole.rows, whole.status) == (8, 14 + 6, {"ok": 14 + 6})
    (output / "done" / "000001.json").write_text("{}")
    assert state_of(output).to_json() | {"quiet_s": 0} == whole.to_json() | {"quiet_s": 0}
    few = state_of(output, footers=2, sums=1)
    assert (few.counted_units, few.estimated[-1]) == (4, "passed_over")


def test_slices_have_a_line_each(output):
    stop(output, 2)
    note = {"begun": time.time() - 20, "host": "node1", "run_id": "r"}
    (output / "slices").mkdir()
    older = {"slice": "0/1", "first": 0, "stop": 3, **note, "begun": 1.0}
    notes = [{"slice": f"{number}/4", "first": number, "stop": number + 1, **note} for number in (0, 2)]
    for number, content in enumerate([older, *notes, {"slice": 3}]):
        (output / "slices" / f"{number}.json").write_text(json.dumps(content))
    for number, file in enumerate(sorted((output / "data").glob("000000-*"))):
        os.utime(file, (time.time() - 10 + number, time.time() - 10 + number))
    status = state_of(output)
    assert [(one.slice, one.state, one.shards_finished) for one in status.slices] == [
        ("0/4", "finished", 1),
        ("2/4", "running", 0),
    ]
    assert status.slices[0].samples_per_s == pytest.approx(3 / 2, rel=0.01)
    text = "\n".join(lines(status))
    assert "slice     0/4: 1 of 1 shards, finished, on node1" in text
    assert "slice     2/4: 0 of 1 shards, running, it seems, on node1" in text
    assert "2 of 4 slices have not begun" in text
    assert status.to_json()["slices"][0]["units"] == 3
    for number, content in enumerate(notes, 1):  # the units are of an earlier start
        (output / "slices" / f"{number}.json").write_text(json.dumps({**content, "begun": time.time() + 60}))
    restarted = state_of(output).slices
    assert [(one.state, one.samples_per_s) for one in restarted] == [("finished", None), ("running", None)]


def test_shards_that_broke_off_and_files_that_cannot_be_read(tmp_path):
    path = write_tar(tmp_path / "tars" / "0.tar", 5, width=24)
    path.write_bytes(path.read_bytes()[:1500])
    (tmp_path / "tars" / "1.tar").write_bytes(b"no tar at all" * 100)
    quick_answer(WebDataset(path=str(tmp_path / "tars")), tmp_path / "out", unit_samples=2)
    for origin in ("summary", "footers"):
        status = state_of(tmp_path / "out")
        assert status.state == "ended" and set(status.failed_shards) == {0, 1}, origin
        assert "broken    shard 1 (" in "\n".join(lines(status))
        assert "more shards" not in "\n".join(lines(status))
        status = state_of(tmp_path / "out", shards=1)
        assert set(status.failed_shards) == {0} and status.failed_shard_count == 2, origin
        assert "broken    1 more shards" in lines(status)
        (tmp_path / "out" / "summary.json").unlink(missing_ok=True)
    next((tmp_path / "out" / "data").iterdir()).write_bytes(b"PAR1")
    status = state_of(tmp_path / "out")
    assert status.damaged == 1 and "`trimline verify output=...` names them" in "\n".join(lines(status))


def test_a_damaged_plan_is_one_line(output):
    (output / "plan" / "000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"out/plan cannot be read: ") as raised:
        state_of(output)
    assert "\n" not in str(raised.value)


def test_an_output_on_s3_has_the_same_status_as_on_disk(output, s3):
    stop(output, 1)
    fs, bucket = s3.open("s3://bucket/status")
    fs.put(str(output), bucket, recursive=True)
    (on_s3,) = look(Look(output="s3://bucket/status", json="s3://bucket/state.json"), s3)
    on_disk = state_of(output)
    assert on_s3.state == "running" and on_s3.quiet_s < 60
    assert {**on_s3.to_json(), "output": "", "quiet_s": 0} == {
        **on_disk.to_json(),
        "output": "",
        "quiet_s": 0,
    }
    assert b'"samples": 12' in fs.cat_file("bucket/state.json")


def test_the_sample_holds_the_newest_units_and_some_of_many_shards():
    times = {
        Unit(shard, 2 * n, 2 * n + 2, False): 100.0 * n + shard for shard in range(10) for n in range(10)
    }
    empty = {Unit(shard, 0, 0, True): 0.0 for shard in range(20, 24)}
    newest, others = choose(listed(times | empty), 20)
    assert [times[unit] for unit in newest] == [*range(909, 899, -1)]
    assert len(others) == 10 and set(others) >= set(empty)
    assert not set(newest) & set(others)
    assert len({unit.shard for unit in others if unit not in empty}) == 6
    assert choose(listed(times), 1000) == (sorted(times, key=times.get, reverse=True), [])
    newest, others = choose(listed(times), 20, range(8))
    assert [times[unit] for unit in newest] == [*range(909, 899, -1)]
    assert {unit.shard for unit in others} == {8, 9}, "the other shards are counted already"


def listed(times):
    return Finished([unit.file_name for unit in times], times.values())


def test_the_rate_is_that_of_the_latest_start():
    def footer(attempt, end, samples, rows):
        stop = 10 + samples
        return footer_of(attempt=attempt, end_time=end, first=10, stop=stop, totals={"rows": rows})

    older = [footer("1", second, 50, 50) for second in range(5)]
    newer = [footer("2", 1000 + 10 * number, 4, 8) for number in range(6)]
    assert rate_of([*newer, *older]) == (20 / 50, 40 / 50)
    assert rate_of(newer[:1]) is None and rate_of([]) is None


def test_a_clock():
    assert [clock(seconds) for seconds in (0, 59.6, 3661, 360000)] == [
        "0:00:00",
        "0:01:00",
        "1:01:01",
        "100:00:00",
    ]
