"""Runs a stage on two made-up GPUs, one of which is sick in one way after the other.

`python -m tests.pipeline.run.guard.sick_gpus FOLDER CASE...` writes what became of each case to told.json. It
starts a Ray of its own, since the one that other tests share has no GPUs.
"""

import fcntl
import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.output.units import Unit
from pipeline.run.cluster.resources import Cluster
from pipeline.run.cluster.start import start_ray
from pipeline.run.flow import _configure_ray_data, _original_error
from pipeline.run.guard.actor import watched_actor
from pipeline.run.guard.incidents import RETIRED
from pipeline.run.guard.ledger_handle import LedgerHandle, start_ledger
from pipeline.run.guard.stage import Watch
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.errors import ConfigError
from pipeline.support.schema import REQUESTS

UNITS, SAMPLES = 6, 2
POISON, BREAKING = (3, 1), (4, 1)  # samples, by their unit and their number in it
SICK, SHARE = "1", 0.99


class AcceleratorError(RuntimeError):
    """As torch's, which takes seconds to import."""


@dataclass
class Place:
    """Holds what a stage's process has on its made-up GPU, and what it does there."""

    folder: Path
    gpu: str
    is_broken: bool = False

    def once(self, name: str) -> bool:
        """Tell whether this is the first call with the name, of any process."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    @property
    def is_sick(self) -> bool:
        return self.gpu == SICK

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Case:
    """Declares what happens in a case.

    Attributes:
        at_load, at_sample: called when a process loads the model, and at each sample.
        loads, retired: how often the sick GPU has loaded the model, and whether it has been given up, when
            the sound one goes on with its second unit: else it would have answered all before, be free, and
            be given to what comes back from the sick one.
        at_once: units in an actor at once.
        has_places: whether the actors' places are reserved, as a run does.
    """

    at_load: Callable[[Place], None] = lambda _: None
    at_sample: Callable[[Place, tuple[int, int]], None] = lambda *_: None
    loads: int = 0
    retired: bool = False
    at_once: int = 1
    has_places: bool = False


def _lose(place: Place, *_: object) -> None:
    raise AcceleratorError("CUDA error: uncorrectable ECC error encountered\nmore lines")


def _die_if_sick(place: Place, *_: object) -> None:
    if place.is_sick:
        place.die()


def _lose_once(place: Place, *_: object) -> None:
    if place.is_sick and place.once("loses"):
        _lose(place)


def _fail_once(place: Place) -> None:
    if place.is_sick and place.once("starts"):
        raise RuntimeError("429 Too Many Requests")
    if place.is_sick and place.once("starts again"):
        raise ConfigError("the process before still holds the GPU's memory")


def _suffer(place: Place, sample: tuple[int, int]) -> None:
    """Die of one sample anywhere; after another, answer nothing any more in this process."""
    if sample == POISON:
        place.die()
    place.is_broken = place.is_broken or sample == BREAKING
    if place.is_broken:
        raise KeyError("not in my table")


CASES = {
    "kills each unit": Case(at_sample=_die_if_sick, retired=True, has_places=True),
    "dies at each load": Case(at_load=_die_if_sick, retired=True),
    "samples": Case(at_sample=_suffer),
    "once": Case(at_load=_fail_once, at_sample=_lose_once, loads=4),
    "no gpu works": Case(at_sample=_lose, at_once=3),
}


class Moody:
    """A stage that holds its GPU alone, as a large model does, and behaves as the case says."""

    def __init__(self, folder: Path, case: Case) -> None:
        gpu = os.environ["CUDA_VISIBLE_DEVICES"]
        self._place, self._case, self._units = Place(folder, gpu), case, 0
        with (folder / f"loads-{gpu}").open("a") as file:
            print(os.getpid(), file=file)
        case.at_load(self._place)
        self._memory = (folder / f"gpu-{gpu}").open("w")
        try:
            fcntl.flock(self._memory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"GPU {gpu} has no room for a second model") from None

    def __call__(self, batch: pa.Table) -> pa.Table:
        row = unpack_unit(batch)
        lines = row.tables["requests"].to_pylist()
        for line in lines:
            if line["status"] == "ok":
                self._case.at_sample(self._place, (row.unit.first // SAMPLES, line["sample"] % SAMPLES))
                line["prediction"] = line["key"]
        self._units += 1
        if not self._place.is_sick and self._units > 1:
            _wait(self._sick_one_has_come)
        return pack_unit(row.passed("generate", 0.0, {"requests": pa.Table.from_pylist(lines, REQUESTS)}))

    def _sick_one_has_come(self) -> bool:
        file = self._place.folder / f"loads-{SICK}"
        loads = len(file.read_text().split()) if file.exists() else 0
        is_retired = (self._place.folder / RETIRED).exists()
        return loads >= self._case.loads and is_retired >= self._case.retired


def _wait(holds: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.1)


def unit(number: int) -> pa.Table:
    first = number * SAMPLES
    lines = [
        dict.fromkeys(REQUESTS.names)
        | {"arm": 0, "key": f"{number}-{at}", "sample": first + at, "status": "ok"}
        for at in range(SAMPLES)
    ]
    table = pa.Table.from_pylist(lines, schema=REQUESTS)
    return pack_unit(UnitRow(Unit(0, first, first + SAMPLES, False), {"requests": table}))


def run_case(case: str, folder: Path) -> dict[str, Any]:
    """Run the units of a case; returns rows, incidents and seconds, or the error."""
    ledger = start_ledger()
    started, ended = time.monotonic(), threading.Event()
    threading.Thread(target=_tell_of_retired, args=(ledger, folder, ended)).start()
    told: dict[str, Any] = {"rows": {}, "error": None}
    try:
        for row in answered(case, folder, ledger):
            for line in row.tables["requests"].to_pylist():
                told["rows"][line["key"]] = [line["status"], line["error"] or line["prediction"]]
    except Exception as error:  # noqa: BLE001 - whatever it is, the test compares it
        told["error"] = _original_error(error)
        traceback.print_exc()
    ended.set()
    incidents = [{**incident.to_json(), "line": incident.line} for incident in ledger.incidents()]
    in_work = [entry.item.stage for entry in ledger.in_work()[1]]
    ledger.kill()
    loads = {file.name: len(file.read_text().split()) for file in sorted(folder.glob("loads-*"))}
    return {
        **told,
        "incidents": incidents,
        "in_work": in_work,
        "loads": loads,
        "s": time.monotonic() - started,
    }


def _tell_of_retired(ledger: LedgerHandle, folder: Path, ended: threading.Event) -> None:
    """Make a file once a GPU has been given up."""
    while not ended.wait(0.3):
        if any(incident.event == RETIRED for incident in ledger.incidents()):
            (folder / RETIRED).touch()
            return


def answered(case: str, folder: Path, ledger: LedgerHandle):
    """Yield the units after the stage, which has an actor on each of the two GPUs."""
    import ray.data
    from ray.util import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    at_once = CASES[case].at_once
    make = functools.partial(Moody, folder, CASES[case])
    watch = Watch("generate", make, ledger, num_gpus=SHARE, at_once=at_once, free_gpu_s=4)
    group = None
    if CASES[case].has_places:
        group = placement_group([{"GPU": SHARE, "CPU": 0.5}] * 2, strategy="SPREAD")
        assert group.wait(60)
    units = ray.data.from_blocks([unit(number) for number in range(UNITS)]).map_batches(
        watched_actor("generate"),
        batch_size=1,
        batch_format="pyarrow",
        zero_copy_batch=True,
        fn_constructor_kwargs={"watch": watch},
        num_cpus=0.5,
        num_gpus=SHARE,
        compute=ray.data.ActorPoolStrategy(size=2, enable_true_multi_threading=at_once > 1),
        max_concurrency=at_once,
        max_restarts=-1,
        max_task_retries=-1,
        **({"scheduling_strategy": PlacementGroupSchedulingStrategy(group)} if group else {}),
    )
    try:
        for batch in units.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            yield unpack_unit(batch)
    finally:
        if group is not None:
            remove_placement_group(group)


def main(folder: Path, cases: list[str]) -> None:
    import ray

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    start_ray(Cluster(num_cpus=4, num_gpus=2), "cpu")
    _configure_ray_data()
    told = {}
    for number, case in enumerate(cases or CASES):
        (folder / str(number)).mkdir()
        told[case] = run_case(case, folder / str(number))
        print(f"{case}: {told[case]['s']:.1f} s", file=sys.stderr, flush=True)
    (folder / "told.json").write_text(json.dumps(told))
    ray.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
