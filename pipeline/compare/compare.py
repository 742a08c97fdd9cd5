"""Writes comparison.parquet and comparison.json of finished outputs."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pyarrow as pa

from pipeline.compare.columns import RequestNumbers, column_sums
from pipeline.compare.comparison import ArmFigures, Comparison, PairFigures
from pipeline.compare.cost import Pricing
from pipeline.compare.figures import arm_figures, pair_figures, shape_of
from pipeline.compare.join import joined_units, open_arms
from pipeline.compare.machine_time import MachineTime
from pipeline.compare.scores import Scores, open_scores
from pipeline.compare.table import ComparisonWriter, joined_table
from pipeline.evaluate.base import Dataset
from pipeline.models.sizes import Shape
from pipeline.output.failed_shards import not_read_whole
from pipeline.output.layout import COMPARISON
from pipeline.output.manifest import Manifest
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.fields import require
from pipeline.support.intervals import LEVEL


def compare_outputs(
    outputs: Mapping[str, str],
    *,
    place: str,
    storage: Storage,
    baseline: str,
    pricing: Pricing | None = None,
    dataset: Dataset | None = None,
    reading: Storage | None = None,
    geometry_of: Callable[[Manifest], Shape | None] = shape_of,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Join the arms' answers; writes `<place>/comparison.parquet` and, last, `<place>/comparison.json`.

    Memory holds some numbers of each request and arm (four bytes each), not its texts. Intervals are 95 %
    percentile intervals over requests (scores: over the dataset's units), under the same draws for all arms.
    Seconds, throughput and money have intervals over units of the run instead, since the requests of a batch
    share its seconds and a busy machine slows whole units; with a single unit they have none. The seconds
    behind costs are defined in `pipeline.compare.machine_time`.

    Args:
        outputs: arm -> URI of its finished output, in the order of the figures.
        place: folder or URI that the two files are written to.
        baseline: the arm with which the others are compared.
        pricing: None: no costs in money, but ratios of costs.
        dataset: its references score the answers, as in `trimline evaluate`.
        reading: how to reach the dataset; None: as the outputs.
        geometry_of: reads the shape of the model that made an output, for computed bytes.
        resamples: of the bootstrap; 0: no intervals.

    Returns:
        The content of comparison.json.

    Raises:
        ConfigError: an output is missing or not finished, or a unit or key of one arm is missing, doubled or
            elsewhere in another: arms are never compared over a part of their requests.
    """
    require(len(outputs) >= 2, f"compare: at least two arms are needed, not {len(outputs)}")
    require(baseline in outputs, f"compare: the baseline {baseline} is none of the arms {', '.join(outputs)}")
    require(resamples >= 0, "resamples must not be negative")
    arms = open_arms(outputs, storage)
    manifests = {arm: output.manifest for arm, output in arms.items()}
    scores, notes = open_scores(dataset, arms, reading or storage)
    numbers, time = RequestNumbers(outputs, baseline), MachineTime()
    broken: dict[int, str] = {}
    with ComparisonWriter(place, list(outputs), storage) as writer:
        for unit in joined_units(arms):
            numbers.add(unit.tables)
            time.add(unit.footers)
            broken |= {
                footer.shard: fault for footer in unit.footers.values() if (fault := footer.shard_error)
            }
            scored = scores.add(unit.tables) if scores else _no_scores(outputs, unit.tables)
            writer.add(joined_table(unit.tables, scored))
    shapes = {arm: geometry_of(manifest) for arm, manifest in manifests.items()}
    bootstrap = {"resamples": resamples, "seed": seed}
    figures, pairs = _figures(manifests, shapes, numbers, time, scores, pricing, bootstrap)
    comparison = Comparison(
        source=storage.redact(arms[baseline].plan.source),
        requests=numbers.count,
        baseline=baseline,
        interleaved=time.interleaved,
        bootstrap={**bootstrap, "level": LEVEL},
        arms=figures,
        pairs=pairs,
        notes=[*notes, *_notes(numbers, time, scores, shapes), *not_read_whole(arms[baseline].plan, broken)],
    )
    _write(place, comparison, storage)
    return comparison


def _no_scores(outputs: Mapping[str, str], tables: Mapping[str, pa.Table]) -> dict[str, list[float | None]]:
    return {arm: [None] * tables[arm].num_rows for arm in outputs}


def _figures(
    manifests: Mapping[str, Manifest],
    shapes: Mapping[str, Shape | None],
    numbers: RequestNumbers,
    time: MachineTime,
    scores: Scores | None,
    pricing: Pricing | None,
    bootstrap: Mapping[str, int],
) -> tuple[dict[str, ArmFigures], dict[str, PairFigures]]:
    """Compute the figures of all arms and pairs; resamples seconds by units, other figures by requests."""
    sums = column_sums(numbers.columns(), **bootstrap)
    by_unit = numbers.columns_by_unit()
    several = len(by_unit.arms[numbers.baseline]["busy_s"][0]) > 1
    timed = column_sums(by_unit, **(bootstrap if several else {**bootstrap, "resamples": 0}))
    arms = {
        arm: arm_figures(
            arm,
            manifest,
            numbers,
            sums,
            timed,
            time,
            shape=shapes[arm],
            pricing=pricing,
            scores=scores.figures(arm, **bootstrap) if scores else None,
        )
        for arm, manifest in manifests.items()
    }
    pairs = {arm: pair_figures(arm, numbers, sums, timed, time) for arm in numbers.pairs}
    differences = scores.differences(numbers.baseline, **bootstrap) if scores else {}
    for arm, difference in differences.items():
        pairs[arm] = replace(pairs[arm], **vars(difference))
    return arms, pairs


def _notes(
    numbers: RequestNumbers, time: MachineTime, scores: Scores | None, shapes: Mapping[str, Shape | None]
) -> list[str]:
    notes = scores.notes() if scores else []
    if not time.interleaved:
        notes.append(
            "The arms did not run interleaved: a machine that changes its speed counts as a difference."
        )
    failed = [arm for arm, status in numbers.status.items() if set(status) - {"ok"}]
    if failed:
        notes.append(
            f"Rows failed in {', '.join(failed)}: they are charged to the requests that were answered."
        )
    unknown = [arm for arm, shape in shapes.items() if shape is None]
    if unknown:
        notes.append(
            f"The model's config.json was not found for {', '.join(unknown)}: no computed bytes there."
        )
    return notes


def _write(place: str, comparison: Comparison, storage: Storage) -> None:
    with storage.reaching("output", place):
        fs, folder = storage.open(place)
        text = storage.as_json(comparison.to_json(), indent=2, allow_nan=False)
        write_atomic(fs, f"{folder}/{COMPARISON}", text.encode())
