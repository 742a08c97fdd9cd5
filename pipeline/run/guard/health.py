"""Counts what goes wrong at each GPU, to tell a sick one from units that kill their processes anywhere."""

from dataclasses import dataclass, field

from pipeline.run.guard.location import Location, WorkerProcess

# A GPU is sick after so many processes that ended there by a fault, at two units or more, unless so many
# units for each of them have ended well: a poisonous unit here and there is no fault of a GPU.
SICK_FAULTS, UNITS_A_FAULT = 4, 16


@dataclass
class _Record:
    """Holds what happened at one GPU: the units in each process that ended by a fault, and units ended."""

    faults: dict[int, set[object]] = field(default_factory=dict)  # by process id
    in_a_row: set[int] = field(default_factory=set)  # processes since a unit ended here
    ended: int = 0

    @property
    def is_sick(self) -> bool:
        units = set().union(*self.faults.values())
        faults = len(self.faults)
        return faults >= SICK_FAULTS and len(units) > 1 and faults * UNITS_A_FAULT > self.ended


class Health:
    """Keeps a record of every GPU of one stage."""

    def __init__(self) -> None:
        self._records: dict[Location, _Record] = {}

    def add_fault(self, item: object, process: WorkerProcess) -> bool:
        """Count a process that ended by a fault at a unit; returns whether this is its first fault."""
        record = self._records.setdefault(process.location, _Record())
        is_first = process.pid not in record.faults
        record.faults.setdefault(process.pid, set()).add(item)
        record.in_a_row.add(process.pid)
        return is_first

    def in_a_row(self, location: Location) -> int:
        """Count the processes that ended by a fault since a unit ended at a GPU."""
        record = self._records.get(location)
        return len(record.in_a_row) if record else 0

    def add_end(self, item: object, location: Location, *, is_at_fault: bool) -> None:
        """Count a unit that ended; what happened with one that was itself at fault counts no more."""
        record = self._records.setdefault(location, _Record())
        record.ended += 1
        record.in_a_row.clear()
        if is_at_fault:
            for other in self._records.values():
                other.faults = {pid: units for pid, units in other.faults.items() if item not in units}

    def sickness(self, location: Location) -> str | None:
        """Say why a GPU is sick, if it is and another one of the stage does better; None if not."""
        record = self._records.get(location)
        if record is None or not record.is_sick:
            return None
        if not any(other.ended > 0 and not other.is_sick for other in self._records.values()):
            return None
        return f"{len(record.faults)} processes ended there by a fault, and {record.ended} units well"
