"""Reads Parquet: one sample a row, its image as bytes, as `{bytes, path}`, base64 or the path of a file."""

import base64
import functools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from pipeline.sources.base import (
    Members,
    Question,
    ReadTotals,
    Sample,
    Shard,
    Source,
    Want,
    Wanted,
    files_ending,
)
from pipeline.sources.cells import image_or_path, only_image
from pipeline.sources.parquet_rows import Rows, open_parquet, row_count
from pipeline.sources.questions import id_text, parse_questions
from pipeline.sources.read_ahead import Read, read_ahead, with_image
from pipeline.storage.listing import File
from pipeline.storage.uris import BLOCK_BYTES, Storage
from pipeline.support.census import PassedOver
from pipeline.support.errors import DataFault, ShardError
from pipeline.support.fields import counted, free
from pipeline.support.parallel import THREADS, each

_IMAGE_NAMES = ("image", "images", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes", "image_path", "path")
_FOOTER_BYTES = 64 << 10  # of one read from object storage that looks for the number of rows


@dataclass(frozen=True, kw_only=True)
class Parquet(Source):
    """Reads Parquet files as `datasets`, img2dataset, pandas or DuckDB write them; a file is a shard.

    Columns left null are found by their usual names: `image` and others, `question` and `questions`.
    Without `key_column`, a sample's key is its row number. Paths are relative to `image_root`, or to the
    file's folder.
    """

    rules: ClassVar[int] = 2
    image_column: str | None = counted(None)
    question_column: str | None = counted(None)
    questions_column: str | None = counted(None)
    question_id_column: str | None = counted(None)
    key_column: str | None = counted(None)
    image_root: str | None = free(None)

    def entries(self, storage: Storage) -> Iterator[File | PassedOver]:
        """See `Source.entries`."""
        return files_ending(self, (".parquet",), storage, of_tables=True)

    def shards(self, entries: Iterable[File], storage: Storage) -> Iterator[Shard]:
        """See `Source.shards`: a file is a shard. Its footer, if undamaged, tells the number of rows."""
        shards = (Shard(ordinal, file.uri, file.size, file.etag) for ordinal, file in enumerate(entries))
        yield from each(functools.partial(self._counted, storage=storage), shards, THREADS)

    def samples(self, shard: Shard, storage: Storage, wanted: Wanted) -> Iterator[Sample | None]:
        """See `Source.samples`. Each row that a damaged row group lost is a sample with a fault."""
        root = self.image_root or shard.uri.rpartition("/")[0]
        return read_ahead(self._items(shard, root, storage, wanted), root, storage)

    def members(
        self, shard: Shard, storage: Storage, samples: Iterable[Sample]
    ) -> Iterator[tuple[Sample, Members]]:
        """See `Source.members`: the other columns of each row, as one JSON object; bytes are base64."""
        with self.open_shard(shard, storage) as stream:
            file, schema = open_parquet(stream)
            image = self._columns(schema)["image"]
            others = {name: name for name in schema.names if name != image}
            rows = (
                (reader, row)
                for group in range(file.num_row_groups)
                for reader in [Rows(file, group, others)]
                for row in range(file.metadata.row_group(group).num_rows)
            )
            for sample, (reader, row) in zip(samples, rows, strict=False):
                yield sample, {"columns.json": _as_json(reader, row)} if others else {}

    def store_reads(self, totals: ReadTotals) -> tuple[float, float | None]:
        """See `Source.store_reads`: each file's two HEADs, footer and blocks, and images by path."""
        by_path = totals.image_bytes > totals.source_bytes  # the images are not within the table
        gets = 3 * totals.complete_shards + totals.ranges(BLOCK_BYTES)
        if not by_path:
            return totals.source_bytes, gets
        return totals.source_bytes + totals.image_bytes, gets + totals.samples

    def _items(
        self, shard: Shard, root: str, storage: Storage, wanted: Wanted
    ) -> Iterator[Read | Sample | None]:
        with self.open_shard(shard, storage) as stream:
            file, schema = open_parquet(stream)
            columns = self._columns(schema)
            image = {"image": columns.pop("image")}
            index, total = 0, max(row_count(file.metadata, shard.size), 1)
            for group in range(file.num_row_groups):
                texts, images = Rows(file, group, columns), Rows(file, group, image)
                for row in range(file.metadata.row_group(group).num_rows):
                    want = wanted(index)
                    bare = Sample(str(index), shard.size * (index + 1) // total, taken=(1, 0))
                    wanted_images = images if Want.IMAGE in want else None
                    where = (root, storage, self.follow_links)
                    yield _sample(bare, row, texts, wanted_images, *where) if want else None
                    index += 1

    def _counted(self, shard: Shard, storage: Storage) -> Shard:
        """Return the shard with the number of its rows, unless reading it will tell what is wrong with it."""
        with storage.reaching("source.path", shard.uri):
            try:
                with self.open_shard(shard, storage, block_size=_FOOTER_BYTES) as stream:
                    return replace(shard, samples=row_count(open_parquet(stream)[0].metadata, shard.size))
            except ShardError:
                return shard

    def _columns(self, schema: pa.Schema) -> dict[str, str]:
        """Map each role to its column. Raises ShardError if the file lacks a column that the user named."""
        names: dict[str, str | None] = {
            "image": self.image_column or next((name for name in _IMAGE_NAMES if name in schema.names), None),
            "question": self.question_column or ("question" if "question" in schema.names else None),
            "questions": self.questions_column or ("questions" if "questions" in schema.names else None),
            "question_id": self.question_id_column,
            "key": self.key_column,
        }
        if names["image"] is None:
            raise ShardError(f"no image column among {', '.join(schema.names)}; set source.image_column")
        columns = {role: name for role, name in names.items() if name is not None}
        missing = [name for name in columns.values() if name not in schema.names]
        if missing:
            raise ShardError(f"no column {missing[0]!r} among {', '.join(schema.names)}")
        return columns


def _sample(
    bare: Sample,
    row: int,
    texts: Rows,
    images: Rows | None,
    root: str,
    storage: Storage,
    follow_links: bool,
) -> Read | Sample:
    """Make a sample of a row, or its `Read` if the image is a file; `images` None: unwanted."""
    key, image, fault = bare.key, None, None
    questions: tuple[Question, ...] = ()
    question_fault: DataFault | None = None
    try:
        values = texts.row(row)
        if (name := values.get("key")) is not None and name == name:  # NaN is none
            key = id_text(name)
        elif "key" in values:
            key = f"row {key}"
        questions, question_fault = _questions(values)
        image = b"" if images is None else image_or_path(only_image(images.row(row)["image"], "row"))
    except DataFault as error:
        fault = error
    own = image if isinstance(image, bytes) else None
    sample = Sample(key, bare.position, own, questions, fault, question_fault, bare.taken)
    if not isinstance(image, str):
        return sample
    return functools.partial(with_image, sample, root, image, storage, follow_links=follow_links)


def _questions(values: dict[str, object]) -> tuple[tuple[Question, ...], DataFault | None]:
    """Return a row's questions, or what is wrong with them."""
    try:
        if values.get("questions") is not None:
            return parse_questions(values["questions"]), None
        if values.get("question") is not None:
            name = values.get("question_id")
            return parse_questions([{"question": values["question"], "question_id": name}]), None
    except DataFault as fault:
        return (), fault
    return (), None


def _as_json(rows: Rows, row: int) -> bytes | DataFault:
    """Write a row as a JSON object, or say why it cannot be read."""
    try:
        return json.dumps(rows.row(row), ensure_ascii=False, default=_as_text).encode()
    except DataFault as fault:
        return fault


def _as_text(value: object) -> str:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)
