"""comparison.parquet and comparison.json of finished outputs."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.compare.columns import Numbers
from pipeline.compare.cost import Pricing
from pipeline.compare.figures import (
    bytes_of,
    histogram_of,
    pair_of,
    seconds_of,
    shape_of,
    time_of,
    tokens_of,
    told_of,
)
from pipeline.compare.join import joined_units, open_arms
from pipeline.compare.machine_time import Clock
from pipeline.compare.scores import Scores, open_scores
from pipeline.compare.table import ComparisonWriter, joined_table
from pipeline.evaluate.base import Dataset
from pipeline.models.sizes import Shape
from pipeline.output.layout import COMPARISON
from pipeline.output.manifest import Manifest
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.fields import require
from pipeline.support.intervals import resampled_sums

COMPARISON_VERSION = 1


def compare_outputs(
    outputs: Mapping[str, str],
    *,
    place: str,
    storage: Storage,
    baseline: str,
    pricing: Pricing | None = None,
    dataset: Dataset | None = None,
    geometry_of: Callable[[Manifest], Shape | None] = shape_of,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Join the arms' answers, write `<place>/comparison.parquet` and, last, `<place>/comparison.json`.

    Of each request some numbers are kept for each arm (four bytes each); its texts go by. All intervals are
    95 % percentile intervals over requests (figures of a dataset: over its units), under the same draws for
    all arms. A request's seconds are its share of a batch's; so those of seconds, throughput and money are
    over units of the run: a machine that was busy for a while made some of them slower than others. Of a
    single one there are none. The seconds that costs are made of are defined in
    `pipeline.compare.machine_time`.

    Args:
        outputs: arm -> URI of its finished output, in the order in which they are told.
        place: folder or URI that the two files are written to.
        baseline: the arm that the others are held against.
        pricing: None: no costs in money; ratios of costs are told all the same.
        dataset: whose references the answers are scored against, as `trimline evaluate` does.
        geometry_of: the shape of the model that made an output, for bytes that are computed.
        resamples: of the bootstrap; 0: no intervals.

    Returns:
        The content of comparison.json.

    Raises:
        ConfigError: an output is not there or not finished, or a unit or key of one arm is missing, doubled
            or elsewhere in another: nothing is ever averaged over the rest.
    """
    require(len(outputs) >= 2, f"compare: at least two arms are needed, not {len(outputs)}")
    require(baseline in outputs, f"compare: the baseline {baseline} is none of the arms {', '.join(outputs)}")
    require(resamples >= 0, "resamples must not be negative")
    arms = open_arms(outputs, storage)
    manifests = {arm: output.manifest for arm, output in arms.items()}
    scores, notes = open_scores(dataset, arms, storage)
    numbers, clock = Numbers(outputs, baseline), Clock()
    with ComparisonWriter(place, list(outputs), storage) as writer:
        for unit in joined_units(arms):
            numbers.add(unit.tables)
            clock.add(unit.footers)
            scored = scores.add(unit.tables) if scores else _no_scores(outputs, unit.tables)
            writer.add(joined_table(unit.tables, scored))
    shapes = {arm: geometry_of(manifest) for arm, manifest in manifests.items()}
    drawing = {"resamples": resamples, "seed": seed}
    found = {
        "schema_version": COMPARISON_VERSION,
        "source": storage.redact(arms[baseline].plan.source),
        "requests": numbers.count,
        "baseline": baseline,
        "interleaved": clock.ran_together,
        "bootstrap": {**drawing, "level": 0.95},
        **_figures(manifests, shapes, numbers, clock, scores, pricing, drawing),
        "notes": notes + _notes(numbers, clock, scores, shapes),
    }
    _write(place, found, storage)
    return found


def _no_scores(outputs: Mapping[str, str], tables: Mapping[str, Any]) -> dict[str, list[float | None]]:
    return {arm: [None] * tables[arm].num_rows for arm in outputs}


def _figures(
    manifests: Mapping[str, Manifest],
    shapes: Mapping[str, Shape | None],
    numbers: Numbers,
    clock: Clock,
    scores: Scores | None,
    pricing: Pricing | None,
    drawing: Mapping[str, int],
) -> dict[str, Any]:
    """The entries `arms` and `pairs`."""
    sums = resampled_sums(numbers.columns(), **drawing)
    by_unit = numbers.columns_by_unit()
    several = len(next(iter(by_unit.values()))[0]) > 1
    timed = resampled_sums(by_unit, **(drawing if several else {**drawing, "resamples": 0}))
    arms = {
        arm: {
            **told_of(manifest),
            "status": dict(sorted(numbers.status[arm].items())),
            "tokens": tokens_of(arm, numbers, sums),
            "seconds": seconds_of(arm, timed),
            **time_of(arm, timed, clock, pricing),
            **bytes_of(arm, sums, shapes[arm], manifest),
            "histogram": histogram_of(arm, numbers),
            "figures": scores.figures(arm, **drawing) if scores else None,
        }
        for arm, manifest in manifests.items()
    }
    scored = scores.differences(numbers.baseline, **drawing) if scores else {}
    pairs = {arm: pair_of(arm, numbers, sums, timed, clock) | scored.get(arm, {}) for arm in numbers.pairs}
    return {"arms": arms, "pairs": pairs}


def _notes(
    numbers: Numbers, clock: Clock, scores: Scores | None, shapes: Mapping[str, Shape | None]
) -> list[str]:
    found = scores.notes() if scores else []
    if not clock.ran_together:
        found.append("The arms did not run interleaved: a machine that drifts counts as a difference.")
    lost = [arm for arm, status in numbers.status.items() if set(status) - {"ok"}]
    if lost:
        found.append(
            f"Rows failed in {', '.join(lost)}: they are charged to the requests that were answered."
        )
    unknown = [arm for arm, shape in shapes.items() if shape is None]
    if unknown:
        found.append(
            f"The model's config.json is not at hand for {', '.join(unknown)}: no computed bytes there."
        )
    return found


def _write(place: str, found: dict[str, Any], storage: Storage) -> None:
    with storage.reaching("output", place):
        fs, folder = storage.open(place)
        text = storage.hide(json.dumps(found, indent=2, allow_nan=False))
        write_atomic(fs, f"{folder}/{COMPARISON}", text.encode())
