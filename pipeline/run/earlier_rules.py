"""Compares what an output of an earlier release holds with what today's rules make of its source.

A source's rules say how files become samples and questions (`Source.rules`). An output that was begun by
other rules can be continued if these make no difference to what it holds.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from pipeline.output.layout import DATA
from pipeline.output.manifest import RULES, Manifest
from pipeline.output.plan import Plan
from pipeline.output.units import Finished, Unit
from pipeline.sources.base import Sample, Shard, Source, Want, files_of
from pipeline.sources.items import samples_of
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.task import requests_of
from pipeline.stages.read import sample_row
from pipeline.support.errors import ConfigError, ShardError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig

_COLUMNS = ["key", "sample_key", "question_id", "question"]
Rows = list[tuple[str, ...]]


def require_same_rules(
    config: "RunConfig",
    source: Source,
    plan: Plan,
    finished: Finished,
    manifests: list[Manifest],
    among: range | None = None,
) -> None:
    """Refuse to continue an output whose finished units, or plan, today's rules would make otherwise.

    Reads the questions of all finished units once more, not the images; only for outputs of other rules.

    Args:
        source: of the whole plan.
        plan, finished: of one arm; all answer the same requests.
        among: the shards whose finished units are known; None: all.

    Raises:
        ConfigError: they differ; it names the first shard.
    """
    if all(manifest.counted.get(RULES, 1) == config.source.rules for manifest in manifests):
        return
    differing = _shard_of_other_count(config, source, plan)
    differing = differing or _shard_of_other_rows(config, source, plan, finished, among)
    if differing is not None:
        raise ConfigError(
            f"output {config.storage.redact(config.options.output)} was begun by a release that made samples "
            f"of source={type(source).__name__.lower()} by other rules, which differ for "
            f"{config.redact(differing)}: finish it with that release, or choose another output"
        )


def _shard_of_other_count(config: "RunConfig", source: Source, plan: Plan) -> str | None:
    """Find a piece of JSONL that holds another number of samples today; other plans do not count contents."""
    if not isinstance(source, Jsonl) or config.options.limit is not None:
        return None
    reading = config.reading
    today = {shard.uri: shard.samples for shard in source.shards(files_of(source, reading), reading)}
    for shard in plan.shards(config.storage):
        if today.get(shard.uri, shard.samples) != shard.samples:
            return shard.uri
    return None


def _shard_of_other_rows(
    config: "RunConfig", source: Source, plan: Plan, finished: Finished, among: range | None
) -> str | None:
    """Find a shard of which a finished unit has other requests than today's rules make."""
    for shard in plan.shards(config.storage, among):
        pairs = _pairs(config, source, shard, plan.folder, finished.units(shard.shard))
        if any(written != made for written, made in pairs):
            return shard.uri
    return None


def _pairs(
    config: "RunConfig", source: Source, shard: Shard, folder: str, units: list[Unit]
) -> Iterator[tuple[Rows, Rows]]:
    """Yield the requests of each finished unit as they were written, and as they would be made."""
    wanted = config.task.wanted & Want.QUESTIONS
    samples = enumerate(samples_of(source, shard, config.reading, lambda _: wanted))
    position = 0
    for unit in units:
        made: Rows = []
        try:
            for index, sample in islice(samples, unit.first - position, unit.stop - position):
                made += _requests(config, shard, index, sample)
        except (ShardError, OSError):
            return  # damage is told by the run; a finished shard's file may be gone
        position = unit.stop
        yield _written(config, folder, unit), made


def _requests(config: "RunConfig", shard: Shard, index: int, sample: Sample | None) -> Rows:
    assert sample is not None, "all are wanted"
    row = sample_row(sample, index, config.task, config.limits.max_questions, config.reading)
    return [
        (request["key"], row["sample_key"], request["question_id"], request["question"])
        for request in requests_of(shard.shard, row)
    ]


def _written(config: "RunConfig", folder: str, unit: Unit) -> Rows:
    fs, path = config.storage.open(folder)
    with fs.open(f"{path}/{DATA}/{unit.file_name}", "rb") as file:
        table = pq.read_table(file, columns=_COLUMNS)
    return list(zip(*(table[name].to_pylist() for name in _COLUMNS), strict=True))
