"""A single run's figures, in the shape in which comparison.json holds those of its arms."""

import json
from typing import Any

from pipeline.compare.columns import Numbers
from pipeline.compare.figures import bytes_of, histogram_of, seconds_of, shape_of, time_of, tokens_of, told_of
from pipeline.compare.join import joined_units
from pipeline.compare.machine_time import Clock
from pipeline.output.layout import EVALUATION
from pipeline.output.opened import Output
from pipeline.report.rows import Requests
from pipeline.storage.uris import Storage, read_bytes
from pipeline.support.intervals import resampled_sums

_RESAMPLES, _MOST_DRAWS = (50, 1000), 10**8


def measure(requests: Requests, output: Output) -> dict[str, Any]:
    """Measure an output as one arm without others; some numbers of each request are in memory.

    Raises:
        ConfigError: the output is not finished, or damaged.
    """
    (arm,) = requests.arms
    manifest = output.manifest
    numbers, clock, notes = Numbers([arm], arm), Clock(), []
    for unit in joined_units({arm: output}):
        numbers.add(unit.tables)
        clock.add(unit.footers)
        footer = unit.footers[arm]
        if fault := footer.shard_error:
            notes.append(f"shard {footer.shard} could not be read whole: {fault}")
    told = {**told_of(manifest), "status": dict(sorted(numbers.status[arm].items()))}
    if numbers.count:
        fewest, most = _RESAMPLES
        resamples = max(fewest, min(most, _MOST_DRAWS // numbers.count))
        sums = resampled_sums(numbers.columns(), resamples=resamples, seed=0)
        told |= {"tokens": tokens_of(arm, numbers, sums), "seconds": seconds_of(arm, sums)}
        told |= time_of(arm, sums, clock, None) | bytes_of(arm, sums, shape_of(manifest), manifest)
        told |= {"histogram": histogram_of(arm, numbers)}
    return {
        "source": output.plan.source,
        "requests": numbers.count,
        "baseline": None,
        "arms": {
            arm: {"tokens": {}, "seconds": {}, **told, "figures": _scores(output.folder, output.storage)}
        },
        "pairs": {},
        "notes": notes,
    }


def _scores(folder: str, storage: Storage) -> dict[str, Any] | None:
    """What `trimline evaluate` left in the output; None if it has not been evaluated."""
    fs, path = storage.open(folder)
    scores: dict[str, Any] | None = json.loads(read_bytes(fs, f"{path}/{EVALUATION}") or b"null")
    return scores
