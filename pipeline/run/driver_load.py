"""Watches how busy the driver is, and says which larger units would make it less so.

Each unit costs the driver about as much, whatever is in it (`benchmark pipeline` measures it: driver_cpu). On
many GPUs that holds a run up first. A unit's limits count for the fingerprint, so that an output keeps those
with which it was begun.
"""

import math
import time

from pipeline.output.units import UnitLimits
from pipeline.support import log

BUSY = 0.5  # of a core: the driver's work is one thread's at a time, and comes in bursts
_AIM = 0.25
_EVERY_S = 60.0


class DriverLoad:
    """Counts the units that reach the driver, and gives its advice once.

    Args:
        limits: of a unit now.
        largest: as `machine_checks.largest_unit` has it.
    """

    def __init__(self, limits: UnitLimits, largest: UnitLimits) -> None:
        self._limits, self._largest = limits, largest
        self._units, self._wall, self._cpu = 0, time.monotonic(), time.process_time()
        self._said = False

    def add(self) -> None:
        """Count one unit."""
        self._units += 1
        wall, cpu = time.monotonic(), time.process_time()
        if self._said or wall - self._wall < _EVERY_S:
            return
        text = advice(self._units, wall - self._wall, cpu - self._cpu, self._limits, self._largest)
        if text is not None:
            log.tell("busy_driver", text)
            self._said = True
        self._units, self._wall, self._cpu = 0, wall, cpu


def advice(units: int, wall_s: float, cpu_s: float, limits: UnitLimits, largest: UnitLimits) -> str | None:
    """Name limits of units with which the driver would be busy for a quarter of its time.

    None: it is not busy now, or no limit can grow.
    """
    busy = cpu_s / wall_s
    times = math.ceil(busy / _AIM)
    larger = {
        key: min(times * getattr(limits, key), getattr(largest, key))
        for key in ("unit_samples", "unit_requests", "unit_bytes")
    }
    changed = [f"{key}={value}" for key, value in larger.items() if value > getattr(limits, key)]
    if busy < BUSY or not changed:
        return None
    return (
        f"{units / wall_s:.0f} units a second keep the driver busy for {busy:.0%} of the time, and at "
        f"100% it holds the run up; larger units cost it less: a new output may have {' '.join(changed)}"
    )
