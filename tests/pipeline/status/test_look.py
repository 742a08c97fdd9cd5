"""What a state is concluded from: which footers, which rate, how much there is in all."""

import os
import time

import pytest

from pipeline.output.units import Unit
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
    """Three tars of 5 samples in units of 2, all made; two samples have a picture that is none."""
    for seed in range(3):
        write_tar(tmp_path / "tars" / f"{seed}.tar", 5, seed=seed, questions=2, width=24)
    quick_answer(WebDataset(path=str(tmp_path / "tars")), tmp_path / "out", unit_samples=2)
    return tmp_path / "out"


def stop(output, *shards, keep=1):
    """As if the run had been stopped: of these shards only the first units are there."""
    for name in ("_SUCCESS", "summary.json"):
        (output / name).unlink()
    for shard in shards:
        for file in sorted((output / "data").glob(f"{shard:06d}-*"))[keep:]:
            file.unlink()


def state_of(output, **options):
    (found,) = look(Look(output=str(output), **options), HERE)
    return found


def test_a_finished_output_is_told_from_its_summary(output, monkeypatch):
    monkeypatch.setattr(sample, "read_footer", None)  # no file is opened
    found = state_of(output)
    assert (found.state, found.estimated, found.counted_units) == ("finished", [], 9)
    assert (found.extent.samples, found.extent.samples_in_all, found.extent.shards_finished) == (15, 15, 3)
    assert found.rows == sum(found.status.values()) == 21
    assert (found.left_s, found.extent.samples_left, found.extent.begun) == (0.0, 0, [])


def test_an_unfinished_one_names_its_shards_and_estimates_what_is_not_counted(output):
    stop(output, 1, 2)
    found = state_of(output)
    assert found.state == "running" and found.quiet_s < 60
    assert (found.extent.units, found.extent.samples) == (5, 9)
    assert found.extent.samples_in_all == 15, "the other tars are as large as the finished one"
    assert found.estimated == ["state", "samples_in_all", "samples_left", "left_s"]
    assert [(one["shard"], one["samples"], one["of"]) for one in found.extent.begun] == [
        (1, 2, None),
        (2, 2, None),
    ]
    assert found.extent.begun[0]["uri"].endswith("/tars/1.tar")
    assert (found.counted_units, found.status) == (5, {"ok": found.rows})
    assert state_of(output, shards=1).extent.shards_begun == 2
    text = "\n".join(lines(found))
    assert "9 of about 15 samples (60.0%), in 5 units" in text
    assert "1 of 3 finished, 2 begun" in text and "shard 2: 2 samples, file://" in text


def test_without_a_finished_shard_nobody_knows_how_much_there_is(output):
    stop(output, 0, 1, 2)
    found = state_of(output)
    assert (found.extent.samples_in_all, found.left_s) == (None, None)
    assert "6 of an unknown number samples, in 3 units" in "\n".join(lines(found))


def test_a_run_is_taken_for_stopped_when_nothing_has_come_for_long(output):
    stop(output, 2)
    an_hour_ago = time.time() - 3600
    for file in (output / "data").iterdir():
        os.utime(file, (an_hour_ago, an_hour_ago))
    found = state_of(output)
    assert found.state == "stopped" and 3590 < found.quiet_s < 3660
    assert "stopped, it seems: the newest unit came 1:00:" in "\n".join(lines(found))


def test_all_units_without_success(output):
    (output / "_SUCCESS").unlink()
    assert state_of(output).state == "ended"


def test_a_run_that_has_only_planned(tmp_path):
    write_tar(tmp_path / "a.tar", 2, width=24)
    quick_prepare(WebDataset(path=str(tmp_path / "a.tar")), tmp_path / "out")
    found = state_of(tmp_path / "out")
    assert (found.state, found.quiet_s, found.rows, found.samples_per_s) == ("empty", None, 0, None)
    assert "no unit is there yet" in "\n".join(lines(found))


def test_an_earlier_summary_is_not_taken_for_what_is_there_now(output):
    sorted((output / "data").iterdir())[0].unlink()
    found = state_of(output)
    assert (found.rows, found.counted_units, found.state) == (21 - 3, 8, "running")


def test_no_more_footers_are_read_than_allowed_and_it_says_so(output, monkeypatch):
    stop(output, 2)
    read, seen = sample.read_footer, []
    monkeypatch.setattr(sample, "read_footer", lambda *args: (seen.append(args[1]), read(*args))[1])
    found = state_of(output, footers=4)
    assert len(seen) == len(set(seen)) == 4 == found.counted_units
    assert found.estimated[-4:] == ["rows", "status", "tokens", "failed_shards"]
    assert "in 4 of 7 units" in "\n".join(lines(found))


def test_shards_that_broke_off_and_files_that_cannot_be_read(tmp_path):
    path = write_tar(tmp_path / "tars" / "0.tar", 5, width=24)
    path.write_bytes(path.read_bytes()[:1500])
    (tmp_path / "tars" / "1.tar").write_bytes(b"no tar at all" * 100)
    quick_answer(WebDataset(path=str(tmp_path / "tars")), tmp_path / "out", unit_samples=2)
    for told_by in ("summary", "footers"):
        found = state_of(tmp_path / "out")
        assert found.state == "ended" and set(found.failed_shards) == {0, 1}, told_by
        assert "broken    shard 1: " in "\n".join(lines(found))
        (tmp_path / "out" / "summary.json").unlink(missing_ok=True)
    next((tmp_path / "out" / "data").iterdir()).write_bytes(b"PAR1")
    found = state_of(tmp_path / "out")
    assert found.damaged == 1 and "`trimline verify output=...` names them" in "\n".join(lines(found))


def test_a_damaged_plan_is_one_line(output):
    (output / "plan" / "000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"out/plan cannot be read: ") as raised:
        state_of(output)
    assert "\n" not in str(raised.value)


def test_an_output_on_s3_is_told_as_one_on_disk(output, s3):
    stop(output, 1)
    fs, bucket = s3.open("s3://bucket/status")
    fs.put(str(output), bucket, recursive=True)
    (there,) = look(Look(output="s3://bucket/status", json="s3://bucket/state.json"), s3)
    here = state_of(output)
    assert there.state == "running" and there.quiet_s < 60
    assert {**there.to_json(), "output": "", "quiet_s": 0} == {**here.to_json(), "output": "", "quiet_s": 0}
    assert b'"samples": 12' in fs.cat_file("bucket/state.json")


def test_the_newest_units_are_read_and_others_from_all_over():
    times = {
        Unit(shard, 2 * n, 2 * n + 2, False): 100.0 * n + shard for shard in range(10) for n in range(10)
    }
    empty = {Unit(shard, 0, 0, True): 0.0 for shard in range(20, 24)}
    newest, others = choose(times | empty, 20)
    assert [times[unit] for unit in newest] == [*range(909, 899, -1)]
    assert len(others) == 10 and set(others) >= set(empty)
    assert not set(newest) & set(others)
    assert len({unit.shard for unit in others if unit not in empty}) == 6
    assert choose(times, 1000) == (sorted(times, key=times.get, reverse=True), [])


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
