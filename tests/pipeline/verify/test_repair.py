"""Repair deletes damaged files only, and a rerun restores the output."""

import json
import os
import time

import pytest

from pipeline.output.plan_growth import make_plan
from pipeline.sources.webdataset import WebDataset
from pipeline.verify.leftovers import left_parts
from tests.pipeline.verify.test_consistent import FIRST, LAST, SECOND, edit, overlap
from tests.support.quick import HERE, lasting_rows


def stamps(output):
    return {file.name: file.stat().st_mtime_ns for file in (output / "data").iterdir()}


def cut(output):
    (output / "data" / SECOND).write_bytes((output / "data" / SECOND).read_bytes()[:-9])
    return {SECOND}


def doubled(output):
    return {SECOND, overlap(output).name}


def foreign(output):
    edit(output / "data" / LAST, footer={"fingerprint": "x"})
    return {LAST}


def renamed(output):
    (output / "data" / FIRST).rename(output / "data" / "000001-00000006-00000008.parquet")
    return {"000001-00000006-00000008.parquet"}


@pytest.mark.parametrize("damage", [cut, doubled, foreign, renamed])
def test_repaired_and_run_again(output, check, finished, damage):
    before = stamps(output)
    removed = damage(output)
    _, result = check(output, repair=True)
    assert set(result.removed) == {"_SUCCESS", "summary.json", *(f"data/{name}" for name in removed)}
    remaining = stamps(output)
    assert remaining == {name: before[name] for name in before.keys() - removed if name in remaining}
    assert len(remaining) == 5
    assert {kind for kind, _ in check(output)[0]} == {"missing"}
    finished.again(output)
    assert check(output, deep=True)[0] == {}
    assert lasting_rows(output) == finished.rows
    assert (output / "_SUCCESS").exists()


def test_repair_deletes_only_known_leftovers(output, check):
    leftovers = [f"data/.{FIRST}.{'0a' * 16}.tmp", f".run.json.{'0b' * 16}.tmp"]
    for name in (*leftovers, "data/notes.txt", "data/.hidden.tmp"):
        (output / name).touch()
    before = stamps(output)
    _, result = check(output, repair=True)
    assert (sorted(result.removed), result.ok) == (sorted(leftovers), True)
    assert stamps(output) == {name: before[name] for name in before if f"data/{name}" not in leftovers}
    assert (output / "_SUCCESS").exists()
    assert {file for _, file in check(output)[0]} == {"data/notes.txt", "data/.hidden.tmp"}


def test_without_repair_nothing_is_touched(output, check):
    cut(output)
    before = stamps(output)
    check(output)
    assert stamps(output) == before and (output / "_SUCCESS").exists()


def test_repair_leaves_a_whole_output_alone(output, check):
    before = stamps(output)
    assert check(output, repair=True)[1].removed == []
    assert stamps(output) == before


def test_sums_that_are_not_those_of_the_footers_are_named_and_written_again(output, check):
    sums = output / "done" / "000001.json"
    before = sums.read_bytes()
    sums.write_text(json.dumps({**json.loads(before), "rows": 1}))
    (output / "done" / "000000.json").write_text("{")
    findings, result = check(output)
    assert set(findings) == {("damaged", "done/000000.json"), ("damaged", "done/000001.json")}
    assert "are not those of the units' footers" in findings["damaged", "done/000001.json"] and not result.ok
    assert json.loads(sums.read_bytes())["rows"] == 1, "without repair nothing is written"
    check(output, repair=True)
    assert sums.read_bytes() == before
    assert check(output)[0] == {}


@pytest.mark.parametrize(("of_rows", "is_told"), [({}, False), ({"status": {"failed": 1}}, True)])
def test_sums_of_an_earlier_making_are_named_if_their_rows_were_others(output, check, of_rows, is_told):
    """Such as those of a copied output, whose files have all the time of the copy."""
    sums = output / "done" / "000001.json"
    before = sums.read_bytes()
    sums.write_text(json.dumps({**json.loads(before), "spans": {"earlier": [1.0, 2.0]}, **of_rows}))
    assert (("damaged", "done/000001.json") in check(output)[0]) == is_told
    os.utime(sums, (0, 0))
    assert check(output)[0] == {}, "sums older than their units count as missing"
    check(output, repair=True)
    assert sums.read_bytes() == before


def test_repair_writes_sums_that_are_missing_and_removes_those_of_shards_that_lose_a_unit(output, check):
    whole = {file.name: file.read_bytes() for file in (output / "done").iterdir()}
    for file in (output / "done").iterdir():
        file.unlink()
    assert check(output)[1].ok, "nothing depends on them"
    cut(output)
    check(output, repair=True)
    left = {file.name: file.read_bytes() for file in (output / "done").iterdir()}
    shard = SECOND[:6]
    assert left == {name: data for name, data in whole.items() if not name.startswith(shard)}


def test_parts_of_plans_that_came_second_are_named_and_removed_after_a_day(output, check):
    young, old = (f"plan/{first:06d}-{'0a' * 8}.parquet" for first in (1000, 2000))
    for name in (young, old):
        (output / name).touch()
    day_before = time.time() - 25 * 3600
    os.utime(output / old, (day_before, day_before))
    findings, result = check(output, repair=True)
    assert findings.keys() == {("leftover", young), ("leftover", old)} and result.ok
    assert "removed when it is a day old" in findings["leftover", young]
    assert result.removed == [old] and (output / young).exists()
    assert (output / "_SUCCESS").exists()


def test_the_plans_own_parts_are_not_left_over(tmp_path):
    for number in range(1001):
        (tmp_path / f"{number:04d}.tar").touch()
    plan = make_plan(str(tmp_path / "out"), WebDataset(path=f"{tmp_path}/*.tar"), None, HERE)
    assert len(plan.parts) == 2 and list(left_parts(plan.folder, plan, HERE)) == []
