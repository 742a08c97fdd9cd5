"""Test what becomes of a unit on which its stage raises an exception, without Ray.

The ledger is the real one, in this process.
"""

import os
import sys
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pytest
import ray.exceptions

from pipeline.output.units import Unit
from pipeline.run.guard import actor as guard
from pipeline.run.guard.actor import watched_actor
from pipeline.run.guard.faults import ends_run
from pipeline.run.guard.ledger import Ledger, WorkItem
from pipeline.run.guard.ledger_handle import LedgerHandle
from pipeline.run.guard.location import Location, WorkerProcess, this_process
from pipeline.run.guard.stage import Watch, watched_task
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.errors import ConfigError, RunError, ShardError
from pipeline.support.schema import REQUESTS, TOKENS

ERROR = "stage generate raised RuntimeError: no answer to this"


class HereLedger(LedgerHandle):
    """Calls a ledger in this process."""

    def ask(self, method: str, *arguments: object, timeout_s: float | None = None) -> Any:
        return getattr(self.actor, method)(*arguments)

    def tell(self, method: str, *arguments: object) -> None:
        self.ask(method, *arguments)


@dataclass
class Answers:
    """A stage that answers each open request with its key and tokens, and raises when it meets a key.

    Args:
        bad: the keys.
        calls: how many requests each call had.
        first: exceptions that the first calls raise.
        is_fragile: whether nothing is answered any more after an exception.
    """

    bad: frozenset[str] = frozenset()
    first: list[BaseException] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)
    is_fragile: bool = False
    is_broken: bool = False

    def __call__(self, batch: pa.Table) -> pa.Table:
        row = unpack_unit(batch)
        requests, tokens = row.tables["requests"].to_pylist(), row.tables["tokens"]["tokens"].to_pylist()
        self.calls.append(len(requests))
        if self.first:
            raise self.first.pop(0)
        for line in requests:
            if line["status"] != "ok":
                continue
            if self.is_broken or line["key"] in self.bad:
                self.is_broken = self.is_fragile
                raise RuntimeError("no answer to this\nand more lines")
            line["prediction"] = f"{line['key']} {tokens[line['visual']].decode()}"
        table = pa.Table.from_pylist(requests, schema=REQUESTS)
        return pack_unit(row.passed("generate", 0.0, {"requests": table}))


def unit_of(statuses: list[list[str]], arms: int = 1, first: int = 0) -> pa.Table:
    """Make a unit after `encode` from the statuses of each sample's requests."""
    lines, tokens = [], []
    for arm in range(arms):
        for sample, of_sample in enumerate(statuses):
            for number, status in enumerate(of_sample):
                key = f"{sample:02d}-{number}"
                visual = len(tokens) if status == "ok" else None
                if status == "ok":
                    tokens.append(f"tokens of {key} in arm {arm}".encode())
                known = {"arm": arm, "key": key, "sample": first + sample, "status": status, "visual": visual}
                lines.append({"sample_key": "k", "question_id": "q", "question": "?", **known})
    tables = {
        "requests": pa.Table.from_pylist(lines, schema=REQUESTS),
        "tokens": pa.table([pa.array(tokens, pa.large_binary())], schema=TOKENS),
    }
    return pack_unit(UnitRow(Unit(0, first, first + len(statuses), False), tables))


def requests_in(batch: pa.Table) -> list[dict[str, Any]]:
    return unpack_unit(batch).tables["requests"].to_pylist()


def actor(stage: Callable[[pa.Table], pa.Table], ledger: HereLedger | None = None, **options: Any) -> Any:
    """Make an actor in this process."""
    watch = Watch("generate", lambda: stage, ledger or HereLedger(Ledger()), **options)
    return watched_actor("generate")(watch=watch)


@pytest.mark.parametrize("run", ["task", "actor"])
def test_a_fault_that_passes_leaves_no_trace(run):
    stage = Answers(first=[RuntimeError("for a moment")])
    batch = unit_of([["ok", "ok"], ["ok"]])
    if run == "task":
        done = watched_task(Watch("generate", lambda: stage, HereLedger(Ledger())))(batch)
    else:
        done = actor(stage)(batch)
    assert requests_in(done) == requests_in(Answers()(batch))
    assert stage.calls == [3, 3], "the whole unit again, so that its batches are the usual ones"


def test_an_actor_keeps_its_stage_and_its_ledger_is_clean_after_an_exception():
    stage, ledger = Answers(bad=frozenset({"01-0"})), HereLedger(Ledger())
    process = actor(stage, ledger)
    statuses = [line["status"] for line in requests_in(process(unit_of([["ok"], ["ok", "ok"], ["ok"]])))]
    assert statuses == ["ok", "failed", "ok", "ok"], "the sample's other question is answered"
    assert requests_in(process(unit_of([["ok"]], first=3)))[0]["status"] == "ok"
    # whole twice, three samples, the second one's two requests, the failed one once more, and the next unit
    assert stage.calls == [4, 4, 1, 2, 1, 1, 1, 1, 1]
    assert ledger.actor.in_work()[1] == []


class Panic(BaseException):
    """As those of Rust's libraries, which are no `Exception`."""


def test_a_panic_is_the_units():
    done = actor(Answers(first=[Panic("index out of range")]))(unit_of([["ok"]]))
    assert requests_in(done)[0]["status"] == "ok"


OF_THE_RUN = [
    ConfigError("model.path: gone"),
    RunError("no way on"),
    KeyboardInterrupt(),
    SystemExit(3),
    GeneratorExit(),
    CancelledError(),
    ray.exceptions.RayError("a node is lost"),
]


@pytest.mark.parametrize("error", OF_THE_RUN, ids=lambda error: type(error).__name__)
def test_what_concerns_the_run_ends_it(error):
    assert ends_run(error)
    stage = Answers(first=[error])
    with pytest.raises(type(error)):
        actor(stage)(unit_of([["ok"]]))
    assert stage.calls == [1]


def test_what_a_model_lacks_on_a_gpu_is_said_with_the_gpus_place(monkeypatch):
    here = WorkerProcess(Location("n7", "id", ("3",)), 1)
    monkeypatch.setattr(guard, "this_process", lambda: here)

    def make():
        raise ConfigError("the weights do not fit")

    with pytest.raises(ConfigError, match=r"the weights do not fit \(on GPU 3 of node n7\)"):
        watched_actor("generate")(watch=Watch("generate", make, HereLedger(Ledger())))


@pytest.mark.parametrize(
    "error",
    [ShardError("x"), MemoryError(), OSError(28, "full"), RecursionError(), Panic(), AssertionError()],
)
def test_all_else_concerns_the_unit(error):
    assert not ends_run(error)


def test_rows_that_may_not_fail_end_the_run_with_the_stages_own_error():
    watch = Watch("write", lambda: Answers(first=[OSError("full")]), HereLedger(Ledger()), can_fail=False)
    with pytest.raises(OSError, match="full"):
        watched_task(watch)(unit_of([["ok"]]))


def test_a_stage_that_still_answers_other_samples_needs_no_other_process(monkeypatch):
    monkeypatch.setattr(guard, "answer_isolated", None)  # calling it would raise TypeError
    stage = Answers(bad=frozenset({"00-0"}))
    process = actor(stage)
    process(unit_of([["bad_image"], ["ok"]]))
    (line,) = requests_in(process(unit_of([["ok"]], first=2)))
    assert (line["status"], line["error"]) == ("failed", ERROR)


@pytest.mark.process
@pytest.mark.parametrize("run", ["task", "actor"])
def test_what_an_exception_has_broken_is_made_anew_and_the_others_are_answered(run):
    made = []

    def make():
        made.append(Answers(bad=frozenset({"01-0"}), is_fragile=True))
        return made[-1]

    watch = Watch("generate", make, HereLedger(Ledger()))
    process = watched_task(watch) if run == "task" else watched_actor("generate")(watch=watch)
    lines = requests_in(process(unit_of([["ok"], ["ok"], ["ok"]])))
    assert [line["status"] for line in lines] == ["ok", "failed", "ok"]
    assert requests_in(process(unit_of([["ok"]], first=3)))[0]["status"] == "ok"


@pytest.mark.process
def test_a_model_that_cannot_be_loaded_again_is_a_start_that_failed(monkeypatch):
    monkeypatch.setattr(guard, "_PAUSE_S", 0)
    monkeypatch.setattr("os._exit", sys.exit)
    here, loads = os.getpid(), []

    def make():
        if loads and os.getpid() == here:
            raise RuntimeError("429")
        loads.append(1)
        return Answers(bad=frozenset({"00-0"}))

    ledger = HereLedger(Ledger())
    process = watched_actor("generate")(watch=Watch("generate", make, ledger))
    assert requests_in(process(unit_of([["ok"]])))[0]["status"] == "failed"
    with pytest.raises(SystemExit):
        process(unit_of([["ok"]], first=1))
    start = ledger.start("generate", this_process())
    assert (start.deaths, start.error) == (1, "RuntimeError: 429")


@pytest.mark.process
def test_a_stage_that_answers_nothing_of_several_units_ends_the_run():
    ledger = HereLedger(Ledger())
    everything = frozenset(f"{sample:02d}-0" for sample in range(20))
    process = actor(Answers(bad=everything), ledger)
    units = [unit_of([["ok"]] * 20, first=first) for first in range(0, 120, 20)]
    for unit in units[:2]:
        assert {line["status"] for line in requests_in(process(unit))} == {"failed"}
    with pytest.raises(RunError, match=f"^{ERROR}; it answered no sample of 3 units in a row"):
        process(units[2])


def test_only_units_in_a_row_count_as_hopeless():
    ledger = Ledger()
    counts = [ledger.end_hopeless(WorkItem("generate", 0, first), 8) for first in (0, 8)]
    assert [(count.units, count.samples) for count in counts] == [(1, 8), (2, 16)]
    ledger.end(WorkItem("encode", 0, 0))
    assert ledger.end_hopeless(WorkItem("generate", 0, 16), 8).units == 3
    ledger.end(WorkItem("generate", 0, 24))
    assert ledger.end_hopeless(WorkItem("generate", 0, 32), 8).units == 1
