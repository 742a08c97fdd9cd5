"""Compares the sums in done/ with the footers of the units that they are of."""

from collections import Counter
from collections.abc import Iterator, Sequence

from pipeline.output.done import read_sums, states_of, sums_name, times_of_sums, write_sums
from pipeline.output.footers import Footer, Json
from pipeline.output.plan import Plan
from pipeline.output.sums import ShardSums, sum_footers
from pipeline.output.units import Unit, times_of_units, units_up_to
from pipeline.storage.uris import Storage
from pipeline.verify.findings import Finding

# What two makings of the same rows, such as by two starts of one slice at once, may have different.
_OF_A_MAKING = ("spans", "seconds", "nodes", "devices")


class SumsCheck:
    """Checks the sums of one whole shard after the other.

    Those of other shards, and those older than a unit of theirs, count as missing anyway.

    Args:
        units: those that have a file, sound or not.
        repair: write the sums that are missing or wrong.
    """

    def __init__(
        self, folder: str, plan: Plan, units: Sequence[Unit], storage: Storage, *, repair: bool
    ) -> None:
        self._folder, self._storage, self._repair = folder, storage, repair
        self._states, self._listed = states_of(plan), Counter(unit.shard for unit in units)
        shards = [unit.shard for unit in units]
        only = range(min(shards), max(shards) + 1) if shards else range(0)
        newest = dict.fromkeys(only, 0.0)
        for name, time in times_of_units(folder, storage, only=only):
            if unit := Unit.of_file(name):
                newest[unit.shard] = max(newest[unit.shard], time)
        times = times_of_sums(folder, len(plan), storage, only)
        self._known = {shard for shard, time in times.items() if time >= newest[shard]}
        self._footers: list[Footer] = []  # of one shard
        self._findings: list[Finding] = []

    def add(self, footer: Footer) -> None:
        """Add the footer of the next file that is in order."""
        if self._footers and self._footers[-1].shard != footer.shard:
            self._close()
        self._footers.append(footer)

    def _close(self) -> None:
        footers, self._footers = self._footers, []
        shard, units = footers[0].shard, [footer.unit for footer in footers]
        whole = units_up_to(shard, [unit.stop for unit in units])
        if units != whole or self._listed[shard] != len(units):
            return
        sums = sum_footers(footers, shard, self._states[shard])
        if shard in self._known:
            stated = read_sums(self._folder, shard, self._storage)
            if stated is not None and stated.to_json() == sums.to_json():
                return
            if stated is None:
                self._tell(shard, "it cannot be read")
            elif stated.spans == sums.spans or _of_rows(stated) != _of_rows(sums):
                self._tell(shard, "its sums are not those of the units' footers")
        if self._repair:
            write_sums(self._folder, sums, self._storage)

    def _tell(self, shard: int, text: str) -> None:
        self._findings.append(Finding("damaged", text, file=sums_name(shard)))

    def findings(self) -> Iterator[Finding]:
        """Yield a finding for the sums of each whole shard that are wrong."""
        if self._footers:
            self._close()
        yield from self._findings


def _of_rows(sums: ShardSums) -> Json:
    """Return what sums say of the rows, whoever made them and when."""
    return {name: value for name, value in sums.to_json().items() if name not in _OF_A_MAKING}
