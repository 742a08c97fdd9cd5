"""Lists what each station of a whole job costs, and where the figure comes from.

A station is anything that takes time or makes others wait: the driver, a listing, the store. A better
measurement replaces a value here, and nothing else.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Basis = Literal["measured", "documented", "estimate"]


@dataclass(frozen=True)
class StationCost:
    """Holds one figure.

    Args:
        basis: `measured` is on two CPU cores (AMD EPYC, Ray 2.60), `documented` is what a service promises,
            `estimate` is arithmetic or a guess.
    """

    value: float
    unit: str
    basis: Basis
    source: str


# CPU seconds of the driver for a unit, by the number of its actors, ascending.
DRIVER_UNIT_S = ((10, 0.018), (40, 0.027))
_DRIVER = "`benchmark pipeline`, driver_cpu (Intel Xeon); between and beyond these numbers in a line"

LEDGER_UNITS_S = StationCost(
    300, "units/s", "estimate", "ten calls a unit, five of them waited for, at 3,000 calls/s of an actor"
)
LIST_PAGE_S = StationCost(
    0.027, "s a page", "measured", "CPU to read a page of 1,000 names; 16 threads share one core, Python's"
)
LIST_NAME_S = StationCost(
    10.4e-6, "s a name", "measured", "CPU to read a name, of a million in an inventory, and to sort it"
)
PLAN_NAME_S = StationCost(2.9e-6, "s a name", "measured", "CPU to write one of a million names into the plan")
PLAN_PART_S = StationCost(0.01, "s a part", "measured", "a slice reads the plan in parts of 1,000 shards")
SMALL_FILE_S = StationCost(
    0.0037, "s a file", "measured", "CPU to read a small file of S3 (SeaweedFS): a footer, a shard's sums"
)
KEY_S = StationCost(
    370e-9, "s a sample", "measured", "CPU to find keys that come twice, by their hashes, of 20 million"
)
CONCLUDING_CORES = StationCost(
    8, "cores", "estimate", "of the machine that sums up: a slice's first node, and that of `finish`"
)
PUTS_S = StationCost(
    3500, "requests/s", "documented", "Amazon S3, Performance guidelines: PUTs a second to one prefix, data/"
)
GETS_S = StationCost(
    5500, "requests/s", "documented", "Amazon S3, Performance guidelines: GETs a second from one prefix"
)
GPU_REQUESTS_S = StationCost(
    100,
    "requests/s",
    "estimate",
    "an H100 with LLaVA-1.5-7B, vLLM, TRIM and 40 new tokens: 90 to 125 from data sheets; never measured",
)
GPU_START_S = StationCost(
    180, "s", "estimate", "Ray's start, 13.5 GB of weights and vLLM's own start; never measured"
)
LARGEST_UNIT = StationCost(
    783,
    "requests",
    "documented",
    "the largest unit_requests with LLaVA-1.5 in bfloat16: a unit has at most 1 GiB of tokens",
)
ACTORS_A_GPU = StationCost(
    1.25,
    "actors",
    "documented",
    "a language model on each GPU, a CLIP on one in four (pipeline/run/README.md)",
)


def driver_unit_s(actors: float) -> float:
    """Interpolate the driver's CPU seconds for a unit; beyond the last measurement it grows on in a line."""
    counts, seconds = zip(*DRIVER_UNIT_S, strict=True)
    return float(np.interp(actors, counts, seconds)) + max(0.0, actors - counts[-1]) * _slope()


def _slope() -> float:
    """Return the seconds that each further actor adds, between the last two measurements."""
    (before, less), (last, most) = DRIVER_UNIT_S[-2:]
    return max(0.0, (most - less) / (last - before))


def known_costs() -> dict[str, StationCost]:
    """List all figures by the names of their stations."""
    driver = {
        f"driver, {actors} actors": StationCost(seconds, "s a unit", "measured", _DRIVER)
        for actors, seconds in DRIVER_UNIT_S
    }
    driver["driver, more actors"] = StationCost(_slope(), "s an actor", "estimate", "the line goes on")
    return driver | {
        "ledger": LEDGER_UNITS_S,
        "listing": LIST_PAGE_S,
        "listing, its names": LIST_NAME_S,
        "plan": PLAN_NAME_S,
        "plan of a slice": PLAN_PART_S,
        "sums": SMALL_FILE_S,
        "repeated keys": KEY_S,
        "cores that sum up": CONCLUDING_CORES,
        "PUTs": PUTS_S,
        "GETs": GETS_S,
        "a GPU": GPU_REQUESTS_S,
        "its start": GPU_START_S,
        "its actors": ACTORS_A_GPU,
        "the largest unit": LARGEST_UNIT,
    }
