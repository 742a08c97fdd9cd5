"""Test `log=json`: one JSON object per line, with the run's id and without credentials."""

import json
import logging
import warnings

import pytest

from pipeline.output.footers import Totals
from pipeline.output.units import Unit
from pipeline.run.progress import Progress
from pipeline.stages.write import UnitStats
from pipeline.support import log
from pipeline.support.schema import COUNTS


@pytest.fixture(autouse=True)
def restore_text_log():
    yield
    log.start("text", str)


def lines(capsys) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_events_name_their_run(capsys):
    log.start("json", lambda text: text.replace("secret", "***"))
    log.event("start", shards=3)
    log.bind(run_id="abc", output="s3://secret@bucket/out")
    log.event("end", "3 rows\nsecret", level=logging.ERROR, named=[{"error": "secret"}])
    start, end = lines(capsys)
    assert start.pop("time") <= end.pop("time")
    assert start == {"level": "info", "event": "start", "run_id": None, "output": None, "shards": 3}
    assert end == {
        **{"level": "error", "event": "end", "run_id": "abc", "output": "s3://***@bucket/out"},
        **{"named": [{"error": "***"}], "message": "3 rows\n***"},
    }


def test_log_records_and_warnings_of_libraries_are_events(capsys):
    log.start("json", str)
    log.bind(run_id="abc", output="out")
    logging.getLogger("some.library").warning("beware of %s", "this")
    logging.getLogger("some.library").info("nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        log.start("json", str)
        warnings.warn("old", UserWarning, stacklevel=1)
    logged, warned = lines(capsys)
    assert (logged["event"], logged["message"], logged["logger"]) == ("log", "beware of this", "some.library")
    assert (logged["level"], logged["run_id"]) == ("warning", "abc")
    assert warned["event"] == "warning" and "UserWarning: old" in warned["message"]


def test_the_text_log_prints_no_events(capsys):
    log.start("json", str)
    log.start("text", str)
    log.event("start")
    assert capsys.readouterr().err == ""


def test_progress_is_an_event(capsys):
    log.start("json", str)
    counts = dict.fromkeys(COUNTS, 0) | {"visual_tokens_kept": 7}
    totals = Totals(rows=2, samples=1, status={"ok": 1, "bad_image": 1}, tokens=counts, seconds={})
    with Progress(total_bytes=100, known_samples=4) as progress:
        for number in (0, 1):
            unit = Unit(0, number, number + 1, False)
            progress.add(UnitStats(unit=unit, source_bytes=25, arms=[0], totals=[totals], stage_s={}))
        progress.steady_since -= 2  # two seconds ago: long enough to compute a rate
    (progress_event,) = lines(capsys)
    assert (progress_event["event"], progress_event["samples"], progress_event["samples_in_all"]) == (
        "progress",
        2,
        4,
    )
    assert (progress_event["status"], progress_event["mean_visual_tokens_kept"]) == (
        {"ok": 2, "bad_image": 2},
        7,
    )
    assert progress_event["samples_per_s"] > 0 and progress_event["left_s"] > 0
