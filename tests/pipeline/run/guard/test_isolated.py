"""Test running a stage in a child process that may die: real processes, really killed."""

import functools
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.output.units import Unit
from pipeline.run.guard.isolated import IsolatedStage, ProcessDied, answer_isolated
from pipeline.run.guard.samples import join_samples, mark_failed, split_by_sample
from pipeline.run.guard.stage import Watch, failed_if_given_up
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.errors import ConfigError, RunError
from pipeline.support.schema import REQUESTS, SAMPLES, TOKENS

pytestmark = pytest.mark.process  # the stages run in child processes


def samples(*kinds: str) -> UnitRow:
    lines = [
        {"sample": 7 + at, "sample_key": kind, "image": b"x", "questions": [], "status": "ok", "error": None}
        for at, kind in enumerate(kinds)
    ]
    return UnitRow(Unit(3, 7, 7 + len(kinds), False), {"samples": pa.Table.from_pylist(lines, SAMPLES)})


def tell(kill: dict[str, int], log: Path, batch: pa.Table) -> pa.Table:
    """A stage that logs its batch size and dies of some samples."""
    row = unpack_unit(batch)
    table = row.tables["samples"]
    with log.open("a") as file:
        print(table.num_rows, file=file)
    for line in table.to_pylist():
        if line["status"] == "ok" and line["sample_key"] in kill:
            signal.raise_signal(kill[line["sample_key"]])
    return pack_unit(row.passed("tell", time.time(), {"samples": table}))


def count(batch: pa.Table):
    """A stage that yields two tables and then dies."""
    for number in range(3):
        if number == 2:
            signal.raise_signal(signal.SIGABRT)
        yield pa.table({"number": [number]})


class Once:
    """A stage that an exception breaks, as an engine that is dead afterwards: it then answers nothing."""

    def __init__(self, log: Path) -> None:
        self._log, self._is_broken = log, False

    def __call__(self, batch: pa.Table) -> pa.Table:
        table = unpack_unit(batch).tables["samples"]
        with self._log.open("a") as file:
            print(table.num_rows, file=file)
        names = [line["sample_key"] for line in table.to_pylist() if line["status"] == "ok"]
        self._is_broken = self._is_broken or "bad" in names
        if self._is_broken:
            raise ValueError("not this one\nat /home/me/stage.py")
        return batch


def misconfigured():
    raise ConfigError("model: the weights are gone")


def stage_of(kill: dict[str, int], log: Path):
    return functools.partial(functools.partial, tell, kill, log)


def test_samples_that_kill_are_named_and_the_others_are_answered(tmp_path):
    row, log = samples("a", "segfault", "b", "memory", "c"), tmp_path / "log"
    stage = stage_of({"segfault": signal.SIGSEGV, "memory": signal.SIGKILL}, log)
    answered = answer_isolated("tell", stage, pack_unit(row))
    done = unpack_unit(answered.batch)
    assert answered.hopeless is None
    assert done.unit == row.unit
    lines = done.tables["samples"].to_pylist()
    assert [line["sample_key"] for line in lines] == ["a", "segfault", "b", "memory", "c"]
    assert [line["status"] for line in lines] == ["ok", "failed", "ok", "failed", "ok"]
    assert lines[1]["error"] == "the worker of stage tell died of SIGSEGV on this sample alone"
    assert "SIGKILL" in lines[3]["error"]
    assert [line["image"] for line in lines] == [b"x", None, b"x", None, b"x"]
    # first all five samples, then one by one; a sample that killed is passed again, as failed
    assert log.read_text().split() == ["5", "1", "1", "1", "1", "1", "1", "1"]


def test_a_unit_that_does_not_kill_is_answered_in_one_piece(tmp_path):
    log = tmp_path / "log"
    done = unpack_unit(answer_isolated("tell", stage_of({}, log), pack_unit(samples("a", "b"))).batch)
    assert done.tables["samples"].equals(samples("a", "b").tables["samples"])
    assert log.read_text().split() == ["2"]


def test_an_exception_is_one_samples_and_the_next_one_has_a_new_process(tmp_path):
    log = tmp_path / "log"
    answered = answer_isolated("tell", functools.partial(Once, log), pack_unit(samples("a", "bad", "b", "c")))
    lines = unpack_unit(answered.batch).tables["samples"].to_pylist()
    assert [line["status"] for line in lines] == ["ok", "failed", "ok", "ok"]
    assert lines[1]["error"] == "stage tell raised ValueError: not this one"
    assert log.read_text().split() == ["4", "1", "1", "1", "1", "1"]


def test_without_an_answer_patience_ends(tmp_path):
    make, log = functools.partial(Once, tmp_path / "log"), tmp_path / "log"
    answered = answer_isolated("tell", make, pack_unit(samples(*["bad"] * 5, "a")), patience=2)
    lines = unpack_unit(answered.batch).tables["samples"].to_pylist()
    assert {line["error"] for line in lines} == {"stage tell raised ValueError: not this one"}
    assert answered.hopeless == "stage tell raised ValueError: not this one"
    # the unit, and two samples, each once more as a failed row; then the other four as failed rows
    assert log.read_text().split() == ["6", "1", "1", "1", "1", "1", "1", "1", "1"]


def test_a_stage_that_cannot_be_made_ends_the_run():
    with pytest.raises(RunError, match=r"^model: the weights are gone$"):
        answer_isolated("tell", misconfigured, pack_unit(samples("a")))


def test_tables_yielded_before_a_death_are_kept():
    with IsolatedStage(functools.partial(functools.partial, count)) as process:
        stream = process.stream(pack_unit(samples("a")))
        numbers = [next(stream)["number"][0].as_py(), next(stream)["number"][0].as_py()]
        with pytest.raises(ProcessDied):
            next(stream)
    assert numbers == [0, 1]


def test_the_child_process_ends_with_the_block(tmp_path):
    with IsolatedStage(stage_of({}, tmp_path / "log")) as process:
        process(pack_unit(samples("a")))
        pid = process._process.pid
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "1000"
    assert not Path(f"/proc/{pid}").exists()


def requests() -> UnitRow:
    """Make requests of two arms and three samples.

    The second sample's requests share their tokens, the third has none.
    """
    lines = []
    for arm in range(2):
        for sample, visual, status in ((0, 0, "ok"), (1, 1, "ok"), (1, 1, "ok"), (2, None, "bad_image")):
            number = sum(line["sample"] == sample and line["arm"] == arm for line in lines)
            key = f"000000-{sample:08d}-{number:04d}"
            visual_of_arm = None if visual is None else visual + 2 * arm
            known = {"arm": arm, "visual": visual_of_arm, "key": key, "sample": sample, "status": status}
            lines.append({"sample_key": "k", "question_id": "q", "question": "?", **known})
    tokens = pa.table([pa.array([b"00", b"01", b"10", b"11"], pa.large_binary())], schema=TOKENS)
    tables = {"requests": pa.Table.from_pylist(lines, schema=REQUESTS), "tokens": tokens}
    return UnitRow(Unit(0, 0, 3, True), tables)


def tokens_of_requests(row: UnitRow) -> list[tuple]:
    tokens = row.tables["tokens"]["tokens"].to_pylist()
    return [
        (line["arm"], line["key"], None if line["visual"] is None else tokens[line["visual"]])
        for line in row.tables["requests"].to_pylist()
    ]


def test_splitting_by_sample_and_joining_changes_nothing():
    row = requests()
    pieces = list(split_by_sample(row))
    assert [piece.tables["tokens"].num_rows for piece in pieces] == [2, 2, 0]
    joined = join_samples(pieces)
    assert tokens_of_requests(joined) == tokens_of_requests(row)
    assert joined.tables["requests"].schema == REQUESTS
    pieces = list(split_by_sample(samples("a", "b")))
    assert join_samples(pieces).tables["samples"].equals(samples("a", "b").tables["samples"])


def test_rows_that_had_failed_before_keep_their_reason():
    lines = mark_failed(requests(), "died").tables["requests"].to_pylist()
    assert [line["status"] for line in lines] == ["failed", "failed", "failed", "bad_image"] * 2
    assert [line["error"] for line in lines] == ["died", "died", "died", None] * 2


def test_the_child_imports_our_packages_not_those_of_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert sys.path[0] == str(tmp_path)
    with IsolatedStage(stage_of({}, tmp_path / "log")) as process:
        assert process(pack_unit(samples("a"))).num_rows == 1


@pytest.mark.parametrize("deaths", [0, 2, 4])
def test_before_the_last_attempt_a_batch_is_unchanged(deaths):
    batch = pack_unit(samples("a", "b"))
    assert failed_if_given_up(Watch("write", None, None, can_fail=False), batch, deaths) is batch
    assert failed_if_given_up(Watch("decode", None, None), batch, deaths) is batch


def test_after_all_attempts_write_stops_the_run_and_decode_fails_its_rows():
    batch = pack_unit(samples("a", "b"))
    with pytest.raises(
        RunError, match="5 workers of stage write died on this unit: 000003-00000007-00000009"
    ):
        failed_if_given_up(Watch("write", None, None, can_fail=False), batch, 5)
    lines = (
        unpack_unit(failed_if_given_up(Watch("decode", None, None), batch, 5)).tables["samples"].to_pylist()
    )
    assert {line["status"] for line in lines} == {"failed"}
