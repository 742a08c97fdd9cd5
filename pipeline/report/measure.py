"""A single run's figures, in the shape in which comparison.json holds those of its arms."""

import json
from typing import Any

from pipeline.compare.columns import Numbers
from pipeline.compare.figures import bytes_of, histogram_of, seconds_of, shape_of, time_of, tokens_of, told_of
from pipeline.compare.join import joined_units
from pipeline.compare.machine_time import Clock
from pipeline.output.manifest import load_manifest
from pipeline.report.rows import Requests
from pipeline.storage.uris import Storage, read_bytes
from pipeline.support.intervals import resampled_sums

_RESAMPLES, _MOST_DRAWS = (50, 1000), 10**8


def measure(requests: Requests, source: str, storage: Storage) -> dict[str, Any]:
    """One arm, with no other to compare it with; some numbers of each request are in memory.

    Raises:
        ConfigError: the output is not finished, or damaged.
    """
    (arm,) = requests.arms
    manifest = load_manifest(requests.folder, storage)
    numbers, clock, notes = Numbers([arm], arm), Clock(), []
    for unit in joined_units({arm: requests.folder}, storage):
        numbers.add(unit.tables)
        clock.add(unit.footers)
        if fault := unit.footers[arm]["shard_error"]:
            notes.append(f"shard {unit.footers[arm]['shard']} could not be read whole: {fault}")
    told = {**told_of(manifest), "status": dict(sorted(numbers.status[arm].items()))}
    if numbers.count:
        fewest, most = _RESAMPLES
        resamples = max(fewest, min(most, _MOST_DRAWS // numbers.count))
        sums = resampled_sums(numbers.columns(), resamples=resamples, seed=0)
        told |= {"tokens": tokens_of(arm, numbers, sums), "seconds": seconds_of(arm, sums)}
        told |= time_of(arm, sums, clock, None) | bytes_of(arm, sums, shape_of(manifest), manifest)
        told |= {"histogram": histogram_of(arm, numbers)}
    return {
        "source": source,
        "requests": numbers.count,
        "baseline": None,
        "arms": {arm: {"tokens": {}, "seconds": {}, **told, **_beside(requests.folder, storage)}},
        "pairs": {},
        "notes": notes,
    }


def _beside(folder: str, storage: Storage) -> dict[str, Any]:
    """What other commands left in the output: its cost (summary.json) and its scores (evaluation.json)."""
    fs, path = storage.open(folder)
    summary, scores = (
        json.loads(read_bytes(fs, f"{path}/{name}") or b"null")
        for name in ("summary.json", "evaluation.json")
    )
    cost = (summary or {}).get("cost")
    return {"cost": cost if isinstance(cost, dict) and "per_million" in cost else None, "figures": scores}
