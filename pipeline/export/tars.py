"""Writes WebDataset tars: a tar a shard, with each image as it came, its answers, and its other members."""

import io
import json
import tarfile
import tempfile
from collections import deque
from collections.abc import Iterator

from pipeline.export.answers import Answers, Rows, Written
from pipeline.export.names import UniqueNames, image_suffix, safe_suffix
from pipeline.sources.base import Members, Sample, Shard, Want
from pipeline.storage.names import shown
from pipeline.storage.uris import put_atomic
from pipeline.support.errors import DataFault, RunError, ShardError

_COLUMNS = ("key", "question_id", "question", "prediction")
_MOST_NAMED = 3  # members that are named among those left out


def write_webdataset(answers: Answers) -> Written:
    """Write the tars, each whole or not at all."""
    options, storage = answers.options, answers.storage
    fs, place = storage.open(options.to)
    written, left_out = Written(), _LeftOut()
    for shard in answers.shards():
        names = UniqueNames()
        with tempfile.NamedTemporaryFile() as file:
            with tarfile.open(fileobj=file, mode="w") as tar:
                for sample, rows, others in _samples(answers, shard):
                    key = names.take(sample.key, rows[0]["key"])
                    for suffix, data in _members(sample, rows, others, left_out).items():
                        info = tarfile.TarInfo(f"{key}.{suffix}")
                        info.size = len(data)
                        tar.addfile(info, io.BytesIO(data))
                    written.rows += len(rows)
            file.flush()
            with storage.reaching("to", options.to):
                put_atomic(fs, f"{place}/{shard.shard:06d}.tar", file.name)
    written.notes += left_out.notes()
    return written


def _samples(answers: Answers, shard: Shard) -> Iterator[tuple[Sample, Rows, Members | None]]:
    """Read the samples that have chosen rows; with all of their members, if these are asked for."""
    if answers.options.members == "answers":
        for sample, rows in answers.with_source(shard):
            assert sample is not None
            yield sample, rows, None
        return
    questions = answers.questions
    waiting: deque[Rows] = deque()  # of the samples that were read and have not come back

    def every_sample() -> Iterator[Sample]:
        for sample, rows in answers.with_source(shard, others=Want.QUESTIONS):
            assert sample is not None
            waiting.append(rows)
            yield sample

    try:
        for sample, others in questions.source.members(
            questions.moved(shard), questions.reading, every_sample()
        ):
            if rows := waiting.popleft():
                yield sample, rows, others
    except ShardError as error:
        raise RunError(questions.reading.redact(f"members: {shard.uri}: {error}")) from None
    if waiting:
        raise RunError(questions.reading.redact(f"members: {shard.uri} has fewer samples than before"))


def _members(sample: Sample, rows: Rows, others: Members | None, left_out: "_LeftOut") -> dict[str, bytes]:
    """Name the files of one sample by their suffixes.

    With the source's others (None: not asked for) ours are called `answers.json`, in every sample alike, and
    give way to one of the same name.
    """
    members: dict[str, bytes] = {}
    with_others = others is not None
    for suffix, data in (others or {}).items():
        if isinstance(data, DataFault):
            left_out.add(f"{shown(sample.key)}.{suffix}", data)
        else:
            members[_free_suffix(safe_suffix(suffix), members)] = data
    prefix = "answers." if with_others else ""
    if sample.image is not None:
        members[_free_suffix(image_suffix(sample.image), members)] = bytes(sample.image)
    members[_free_suffix(f"{prefix}json", members)] = _json(sample, rows)
    if len(rows) == 1:
        members[_free_suffix(f"{prefix}txt", members)] = (rows[0]["prediction"] or "").encode()
    return members


def _free_suffix(suffix: str, members: dict[str, bytes]) -> str:
    """Return a suffix that no member has yet; webdataset takes upper and lower case for the same."""
    used = {name.lower() for name in members}
    number = 1
    free = suffix
    while free.lower() in used:
        number += 1
        free = f"{number}.{suffix}"
    return free


def _json(sample: Sample, rows: Rows) -> bytes:
    answers = [{name: row[name] for name in _COLUMNS} for row in rows]
    return json.dumps({"sample_key": shown(sample.key), "answers": answers}, ensure_ascii=False).encode()


class _LeftOut:
    """Counts members that cannot be copied."""

    def __init__(self) -> None:
        self._count = 0
        self._first: list[str] = []

    def add(self, name: str, fault: DataFault) -> None:
        self._count += 1
        if self._count <= _MOST_NAMED:
            self._first.append(f"{name}: {fault}")

    def notes(self) -> list[str]:
        return [f"{self._count:,} members are left out ({'; '.join(self._first)})"] if self._count else []
