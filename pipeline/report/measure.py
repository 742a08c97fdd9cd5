"""Measures a single run in the form of a comparison with one arm."""

import json
from dataclasses import replace
from typing import cast

from pipeline.compare.columns import RequestNumbers, column_sums
from pipeline.compare.comparison import Comparison
from pipeline.compare.figures import arm_figures, made_with, shape_of
from pipeline.compare.join import joined_units
from pipeline.compare.machine_time import MachineTime
from pipeline.evaluate.evaluate import EvaluationJson
from pipeline.evaluate.tally import cut_off_note
from pipeline.output.failed_shards import not_read_whole
from pipeline.output.layout import EVALUATION
from pipeline.output.opened import Output
from pipeline.report.rows import Requests
from pipeline.storage.uris import read_bytes

_RESAMPLES, _MOST_DRAWS = (50, 1000), 10**8


def measure_run(requests: Requests, output: Output) -> Comparison:
    """Measure an output as one arm without others; some numbers of each request are in memory.

    Raises:
        ConfigError: the output is not finished, or damaged.
    """
    (arm,) = requests.arms
    numbers, time = RequestNumbers([arm], arm), MachineTime()
    broken: dict[int, str] = {}
    for unit in joined_units({arm: output}):
        numbers.add(unit.tables)
        time.add(unit.footers)
        footer = unit.footers[arm]
        if fault := footer.shard_error:
            broken[footer.shard] = fault
    manifest, scores = output.manifest, _scores(output)
    figures = replace(made_with(manifest), figures=scores)
    if numbers.count:
        fewest, most = _RESAMPLES
        resamples = max(fewest, min(most, _MOST_DRAWS // numbers.count))
        sums = column_sums(numbers.columns(), resamples=resamples, seed=0)
        shape = shape_of(manifest)
        figures = arm_figures(
            arm, manifest, numbers, sums, sums, time, shape=shape, pricing=None, scores=scores
        )
    return Comparison(
        source=output.plan.source,
        requests=numbers.count,
        baseline=None,
        arms={arm: figures},
        notes=[*not_read_whole(output.plan, broken), *_cut_off(scores)],
    )


def _cut_off(scores: EvaluationJson | None) -> list[str]:
    """Say how many answers were cut off; an evaluation.json of 0.1.0 does not tell."""
    if scores is None or not scores.get("cut_off"):
        return []
    longest, published = scores["max_new_tokens"], scores["published_max_new_tokens"]
    return [f"{cut_off_note(scores['cut_off'], longest, published)}."]


def _scores(output: Output) -> EvaluationJson | None:
    """Read the scores that `trimline evaluate` wrote into the output; None if there are none."""
    fs, path = output.storage.open(output.folder)
    return cast(EvaluationJson | None, json.loads(read_bytes(fs, f"{path}/{EVALUATION}") or b"null"))
