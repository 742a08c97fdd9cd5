"""Has the sums of finished shards written during a run, by tasks of Ray's on any node, off the driver."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.output.done import make_sums
from pipeline.output.sums import State
from pipeline.stages.write import UnitStats
from pipeline.storage.uris import Storage

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig
    from pipeline.run.prepare import Prepared

_FROM_UNITS = 1000  # the sums of fewer units are made at the end sooner than by processes that must start
_AT_ONCE = 16  # tasks
_END_S = 30.0  # how long the last tasks may take


class ShardTasks:
    """Finds the shards that become whole, and starts a task for each, which writes its sums into done/.

    Nothing depends on the tasks: sums that one of them does not write are made when the run is concluded.
    Memory holds the units of begun shards alone.
    """

    def __init__(self, config: "RunConfig", prepared: "Prepared", from_units: int = _FROM_UNITS) -> None:
        self._storage, self._prepared, self._from_units = config.storage, prepared, from_units
        self._folders = [state.folder for state in prepared.states]
        self._units = prepared.states[0].finished.count
        self._begun: dict[int, dict[int, int]] = {}  # first -> stop of the units that all arms have
        self._ends: dict[int, int] = {}  # of begun shards whose last unit is there
        self._whole: deque[tuple[int, list[int]]] = deque()  # shards with the stops of their units
        self._running: list[Any] = []  # Ray's references

    def add(self, stats: UnitStats) -> None:
        """Count a written unit; start the tasks that are due."""
        self._units += 1
        unit = stats.unit
        ranges = self._begun.get(unit.shard)
        if ranges is None:
            ranges = self._begun[unit.shard] = self._known(unit.shard)
        ranges[unit.first] = unit.stop
        if unit.end:
            self._ends[unit.shard] = unit.stop
        end = self._ends.get(unit.shard)
        if end is not None and sum(stop - first for first, stop in ranges.items()) == end:
            self._whole.append((unit.shard, [stop for _, stop in sorted(ranges.items())]))
            del self._begun[unit.shard], self._ends[unit.shard]
        if self._units >= self._from_units:
            self._start()

    def _known(self, shard: int) -> dict[int, int]:
        """Return the ranges of a shard's units that all arms had before this run."""
        of_arms = [set(state.finished.units(shard)) for state in self._prepared.states]
        units = set.intersection(*of_arms)
        self._ends.update((shard, unit.stop) for unit in units if unit.end)
        return {unit.first: unit.stop for unit in units}

    def _start(self) -> None:
        if not self._whole:
            return
        import ray

        if self._running:
            _, self._running = ray.wait(self._running, num_returns=len(self._running), timeout=0)
        table = self._prepared.plan.table
        task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy="SPREAD")(_make_sums_of_arms)
        while self._whole and len(self._running) < _AT_ONCE:
            shard, stops = self._whole.popleft()
            planned = table["size"][shard].as_py(), table["etag"][shard].as_py()
            self._running.append(task.remote(self._folders, shard, planned, stops, self._storage))

    def wait(self) -> None:
        """Wait a while for the tasks that have been started."""
        if self._running:
            import ray

            ray.wait(self._running, num_returns=len(self._running), timeout=_END_S)


def _make_sums_of_arms(
    folders: Sequence[str], shard: int, planned: State, stops: Sequence[int], storage: Storage
) -> None:
    for folder in folders:
        make_sums(folder, shard, planned, stops, storage)
