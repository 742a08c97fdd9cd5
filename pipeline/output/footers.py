"""Describes one unit's file by the JSON in its Parquet footer: its range, counts, times and origin.

Every key that a footer has had from the beginning is required. Keys that came later are None in a footer
that lacks them.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.layout import DATA
from pipeline.output.units import Finished, Unit
from pipeline.storage.uris import Storage
from pipeline.support.errors import RunError
from pipeline.support.processes import each_of_many
from pipeline.support.schema import COUNTS, SECONDS

FOOTER = b"trimline"
KEYS = b"trimline.sample_keys"  # beside it, since Arrow writes a table's own metadata twice

_END_BYTES = 64 << 10  # hold the metadata of most units' files
_LATER = ("source_uri", "census", "repeated_question_ids")  # not in the footers of 0.1.0

Json = dict[str, Any]  # parsed JSON, whose keys `from_json` checks


def known_fields(kind: type, data: Mapping[str, Any]) -> Json:
    """Pick the values of a dataclass's fields; skips other keys.

    Raises:
        KeyError: a field without the default None has no value.
    """
    optional = {field.name for field in fields(kind) if field.default is None}
    names = [field.name for field in fields(kind)]
    return {name: data[name] for name in names if name in data or name not in optional}


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts a unit's rows.

    Args:
        status: number of rows by status.
        tokens: sums of the columns in `schema.COUNTS`.
        seconds: sums of the columns in `schema.SECONDS`.
    """

    rows: int
    samples: int
    status: dict[str, int]
    tokens: dict[str, int]
    seconds: dict[str, float]

    @property
    def ok(self) -> int:
        """The number of answered requests."""
        return self.status.get("ok", 0)

    def to_json(self) -> Json:
        """Return the totals as one flat object."""
        counts = {"rows": self.rows, "samples": self.samples, "status": self.status}
        return {**counts, **self.tokens, **self.seconds}

    @classmethod
    def from_json(cls, data: Json) -> "Totals":
        """Read totals; KeyError if a key is missing."""
        return cls(
            rows=data["rows"],
            samples=data["samples"],
            status=data["status"],
            tokens={name: data[name] for name in COUNTS},
            seconds={name: data[name] for name in SECONDS},
        )


@dataclass(frozen=True, kw_only=True)
class Visit:
    """Records one stage's work on a unit: process, time and resources.

    Args:
        start, end: seconds since the epoch.
        cpu_s: CPU seconds of the whole process between them; None if the stage did not measure them.
        cores: cores that the process could use.
        peak_memory_bytes, peak_gpu_memory_bytes: of the process until then; None on GPUs: it used none.
        startup_s: how long the process loaded its models before its first unit.
        device: on which a model computed: the GPU's name, or `CPU`; None: the stage has no model, or an
            earlier release wrote the footer.
    """

    node: str
    pid: int
    start: float
    end: float
    cpu_s: float | None = None
    cores: int | None = None
    peak_memory_bytes: int
    peak_gpu_memory_bytes: int | None = None
    startup_s: float
    device: str | None = None

    @property
    def seconds(self) -> float:
        """The seconds that the stage worked on the unit."""
        return max(0.0, self.end - self.start)

    @property
    def process(self) -> tuple[str, int]:
        """Node and process id, which together identify a process."""
        return self.node, self.pid

    @classmethod
    def from_json(cls, data: Json) -> "Visit":
        """Read a visit; KeyError if a key is missing that was always written."""
        return cls(**known_fields(cls, data))


@dataclass(frozen=True, kw_only=True)
class Footer:
    """Describes one unit's file.

    Args:
        shard, first, stop, end: the unit, as its file name says it.
        source_uri, source_size, source_etag: the shard's, as the plan had them.
        source_bytes, image_bytes: how much the unit read of the source, and how much of that is images.
        shard_error: why the shard could not be read beyond this unit; None: it could.
        census: what became of the unit's entries of the shard, as `Census.to_json` has it; None: unknown.
        repeated_question_ids: `Repeated` as JSON; None: there are none.
        sample_keys: hashes of the samples' keys, as `repeated.packed` has them; None: unknown.
        attempt: when the job that wrote the file was started, in seconds since the epoch, as text.
        start, end_time: when the unit was begun and written, in seconds since the epoch.
        stages: the visits by the names of the stages, in the order of the unit's way.
    """

    schema_version: int
    fingerprint: str
    shard: int
    first: int
    stop: int
    end: bool
    source_uri: str | None = None
    source_size: int
    source_etag: str
    source_bytes: int
    image_bytes: int | None = None
    shard_error: str | None
    census: Json | None = None
    repeated_question_ids: Json | None = None
    sample_keys: str | None = None
    totals: Totals
    attempt: str
    start: float
    end_time: float
    stages: dict[str, Visit]

    @property
    def unit(self) -> Unit:
        """The unit that the file holds."""
        return Unit(self.shard, self.first, self.stop, self.end)

    @property
    def samples(self) -> int:
        """The number of samples in the unit."""
        return self.stop - self.first

    def to_json(self) -> Json:
        """Return the footer as it is written, its keys in the order of the fields, without `sample_keys`."""
        data = {**asdict(self), "totals": self.totals.to_json()}
        del data["sample_keys"]
        for visit in data["stages"].values():
            if visit["device"] is None:
                del visit["device"]
        return {name: value for name, value in data.items() if name not in _LATER or value is not None}

    @classmethod
    def from_json(cls, data: Json) -> "Footer":
        """Read a footer; skips unknown keys.

        Raises:
            KeyError, TypeError: a key that was always written is missing, or something is no object.
        """
        stages = {stage: Visit.from_json(visit) for stage, visit in data["stages"].items()}
        parsed = {**data, "totals": Totals.from_json(data["totals"]), "stages": stages}
        return cls(**known_fields(cls, parsed))


def totals_of(table: pa.Table) -> Totals:
    """Count the rows of a table of predictions by status, and sum up their tokens and seconds."""
    return Totals(
        rows=table.num_rows,
        samples=pc.count_distinct(table["sample"]).as_py(),
        status=dict(Counter(table["status"].to_pylist())),
        tokens={name: pc.sum(table[name]).as_py() or 0 for name in COUNTS},
        seconds={name: pc.sum(table[name]).as_py() or 0 for name in SECONDS},
    )


def footer_in(metadata: Mapping[bytes, bytes] | None) -> Footer | None:
    """Read the footer out of a Parquet file's metadata; None if Trimline did not write the file."""
    if not metadata or FOOTER not in metadata:
        return None
    keys = metadata[KEYS].decode() if KEYS in metadata else None
    return Footer.from_json({**json.loads(metadata[FOOTER]), "sample_keys": keys})


def read_footer(folder: str, name: str, storage: Storage) -> Footer:
    """Read the footer of a unit's file; RunError if Trimline did not write it."""
    fs, path = storage.open(folder)
    footer = footer_in(_metadata_of(fs, f"{path}/{DATA}/{name}").metadata)
    if footer is None:
        raise RunError(f"data/{name} was not written by Trimline")
    return footer


def _metadata_of(fs: fsspec.AbstractFileSystem, path: str) -> pq.FileMetaData:
    """Read a Parquet file's metadata; of S3 in one request, where an opened file takes two."""
    if "s3" not in fs.protocol:
        with fs.open(path, "rb") as file:
            return pq.read_metadata(file)
    end = fs.cat_file(path, start=-_END_BYTES)
    length = int.from_bytes(end[-8:-4], "little") + 8  # of the metadata, their length and the magic number
    if length > len(end) == _END_BYTES:
        end = fs.cat_file(path, start=-length)
    return pq.read_metadata(pa.BufferReader(end))


def read_footers(folder: str, finished: Finished, storage: Storage) -> Iterable[Footer]:
    """Read the footers of all finished units in their order, a few hundred at a time."""
    names = (unit.file_name for unit in finished)
    return each_of_many(partial(read_footer, folder, storage=storage), names, costs=finished.count)


def read_key(folder: str, finished: Finished, storage: Storage, place: int) -> str:
    """Read the key of a sample by its place among the samples of all finished units."""
    fs, path = storage.open(folder)
    for unit in finished:
        if place < unit.stop - unit.first:
            with fs.open(f"{path}/{DATA}/{unit.file_name}", "rb") as file:
                rows = pq.read_table(file, columns=["sample", "sample_key"], use_threads=False)
            return str(rows["sample_key"][pc.index(rows["sample"], unit.first + place).as_py()].as_py())
        place -= unit.stop - unit.first
    raise AssertionError("the place is one of the output's samples")
