"""Checks that the rows hold each of the source's requests, in its order, and no others."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice, zip_longest

import pyarrow.parquet as pq

from pipeline.output.changed import changed_files
from pipeline.output.footers import footer_in
from pipeline.output.opened import Questions
from pipeline.output.plan_growth import new_files
from pipeline.output.units import Unit
from pipeline.sources.base import Sample, Shard, Want
from pipeline.sources.items import items_of
from pipeline.sources.task import requests_of
from pipeline.stages.read import sample_row
from pipeline.support.census import Census, PassedOver, sum_of
from pipeline.support.errors import ShardError
from pipeline.support.parallel import each
from pipeline.verify.findings import Finding, of_unit

_OF_REQUEST = ("key", "question_id", "question")
_COLUMNS = [*_OF_REQUEST, "sample_key"]
_SHARDS_AT_ONCE = 4
Requests = list[dict[str, str]]


def prove(
    questions: Questions, units: dict[int, list[Unit]], errors: dict[int, str], among: range
) -> Iterator[Finding]:
    """Find the differences between source and rows; does not read shards whose files have changed.

    Args:
        units: of each shard, those whose files are in order, sorted.
        errors: why shards could not be read whole, by shard.
        among: the shards that are compared.

    Raises:
        ConfigError: the source cannot be reached.
    """
    plan, storage = questions.plan, questions.storage
    changed: set[int] = set()
    with questions.reading.reaching("source.path", questions.source_path):
        for shard, file in changed_files(
            plan, lambda _: False, questions.entries, questions.file_at, storage, among
        ):
            changed.add(shard.shard)
            text = "it is gone, or has another size or etag than when the run first started"
            yield Finding("changed", text, shard.shard, file=storage.redact(file.uri))
        unchanged = (
            shard
            for shard in plan.shards(storage, among)
            if units.get(shard.shard) and shard.shard not in changed
        )

        def compare(shard: Shard) -> list[Finding]:
            return list(_differences(questions, shard, units[shard.shard], errors.get(shard.shard)))

        for findings in each(compare, unchanged, _SHARDS_AT_ONCE):
            yield from findings


def not_planned(questions: Questions) -> list[str]:
    """Make a note if the source has files that the plan lacks."""
    with questions.reading.reaching("source.path", questions.source_path):
        new = new_files(questions.plan, questions.entries(), questions.storage)
        first = next(new, None)
        more = sum(1 for _ in new)
    if first is None:
        return []
    return [f"{1 + more:,} files of the source are not in the plan: {questions.storage.redact(first.uri)}"]


def _differences(
    questions: Questions, shard: Shard, units: Sequence[Unit], lost: str | None
) -> Iterator[Finding]:
    """Find the differences in the units of one shard; `lost`: why the run could not read all of it."""
    reading, position, same = _Reading(questions, shard), 0, True
    censuses: list[Census | None] = []
    for unit in units:
        reading.requests(unit.first - position)  # of units that are missing
        wanted, (rows, census) = reading.requests(unit.stop - unit.first), _read_unit(questions, unit)
        position, same = unit.stop, rows == wanted
        censuses.append(census)
        if not same:
            broken = f"; the source breaks off: {reading.error}" if reading.error else ""
            yield of_unit("changed", unit, questions.storage.redact(_difference(rows, wanted)) + broken)
    last = units[-1]
    if not last.end or not same:
        return
    if reading.requests(1):
        yield of_unit("changed", last, f"the source goes on with sample {last.stop}")
    elif lost and not reading.error:
        yield of_unit("changed", last, "the source can be read to its end, where the run could not")
    elif reading.error and not lost:
        yield of_unit("changed", last, f"the source breaks off: {reading.error}")
    elif difference := _other_census(reading.census, units, censuses):
        yield of_unit("changed", last, questions.storage.redact(difference))


def _other_census(of_source: Census, units: Sequence[Unit], censuses: Sequence[Census | None]) -> str | None:
    """Describe how the census of a whole shard differs from that of its units, if they have one."""
    tiled = [0, *(unit.stop for unit in units[:-1])] == [unit.first for unit in units]
    counted = [census for census in censuses if census is not None]
    if not tiled or len(counted) < sum(unit.stop > unit.first for unit in units):
        return None  # a unit is missing, or an earlier release wrote it
    written = sum_of(counted)
    if replace(of_source, names={}) == replace(written, names={}):
        return None
    return f"the source has {of_source.counts_text()} where the files have {written.counts_text()}"


class _Reading:
    """Reads the requests of a shard's samples as the source has them now; `error`: why it breaks off."""

    def __init__(self, questions: Questions, shard: Shard) -> None:
        self._questions, self._shard = questions, shard
        self.error: str | None = None
        self.census = Census()
        self._samples = enumerate(self._read())

    def _read(self) -> Iterator[Sample | None]:
        questions, shard = self._questions, self._shard
        wanted = questions.task.wanted & Want.QUESTIONS  # nobody needs the image
        items = items_of(questions.source, questions.moved(shard), questions.reading, lambda _: wanted)
        count = 0
        try:
            for item in items:
                if isinstance(item, PassedOver):
                    self.census.pass_over(item)
                    continue
                if item is not None:
                    self.census.take(*item.taken)
                yield item
                count += 1
                if count == shard.samples:
                    return
            self.error = self.census.nothing_taken() if count == 0 else None
        except ShardError as fault:
            self.error = questions.reading.redact(str(fault))

    def requests(self, samples: int) -> Requests:
        """Read the requests of the next samples: fewer, if the shard ends."""
        questions = self._questions
        requests: Requests = []
        for index, sample in islice(self._samples, samples):
            assert sample is not None, "all are wanted"
            row = sample_row(sample, index, questions.task, questions.max_questions, questions.reading)
            key = {"sample_key": row["sample_key"]}
            for request in requests_of(self._shard.shard, row):
                requests.append({**key, **{name: request[name] for name in _OF_REQUEST}})
        return requests


def _read_unit(questions: Questions, unit: Unit) -> tuple[Requests, Census | None]:
    """Read a unit's requests and its census."""
    fs, path = questions.storage.open(questions.folder)
    with fs.open(f"{path}/data/{unit.file_name}", "rb") as file:
        table = pq.read_table(file, columns=_COLUMNS)
    footer = footer_in(table.schema.metadata)
    rows: Requests = table.to_pylist()
    return rows, Census.from_json(footer.census) if footer and footer.census else None


def _difference(rows: Requests, wanted: Requests) -> str:
    """Describe the first request that is not the same in both."""
    nothing: dict[str, str] = {}
    pairs = zip_longest(rows, wanted, fillvalue=nothing)
    row, request = next(pair for pair in pairs if pair[0] != pair[1])
    if not row or not request:
        only, lacking = (
            ("source asks", "the rows do not") if not row else ("rows hold", "the source does not ask")
        )
        return f"the {only} {_shown(row or request)}, {lacking}"
    names = [name for name in row if row[name] != request[name]]
    changes = (f"{name} {row[name][:60]!r} where the source has {request[name][:60]!r}" for name in names)
    return f"{row['key']} has the {', the '.join(changes)}"


def _shown(request: dict[str, str]) -> str:
    return f"{request['key']} ({request['question'][:60]!r})"
