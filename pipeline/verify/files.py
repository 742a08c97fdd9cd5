"""Checks that one unit's file is whole and agrees with its name, footer, run.json and plan."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.computed_on import computed_on
from pipeline.output.footers import Footer, Json, footer_in, totals_of
from pipeline.output.layout import DATA
from pipeline.output.manifest import Manifest
from pipeline.output.plan import Plan
from pipeline.output.repeated import names_of
from pipeline.output.units import Unit
from pipeline.sources.task import request_key
from pipeline.storage.uris import Storage
from pipeline.support.schema import COUNTS, PREDICTIONS


@dataclass(frozen=True)
class Checked:
    """Holds the result of a file's check.

    Args:
        fault: what is wrong with the file by itself.
        foreign: how it differs from what run.json or the plan say.
        planned: whether the plan has its shard.
        names: the hashes of its samples' keys and its repeated question ids, as `names_of` has them.
        device: on which its rows were answered, as `computed_on` has it.
        footer: of a file that is in order.
    """

    unit: Unit
    rows: int = 0
    status: Counter[str] = field(default_factory=Counter)
    shard_error: str | None = None
    fault: str | None = None
    foreign: str | None = None
    planned: bool = True
    names: tuple[str | None, Json | None] = (None, None)
    device: str | None = None
    footer: Footer | None = None


def check_file(unit: Unit, folder: str, manifest: Manifest, plan: Plan, storage: Storage) -> Checked:
    """Read a unit's whole file and check it.

    Raises:
        ConfigError: the store cannot be reached.
    """
    fs, path = storage.open(folder)
    with storage.reaching("output", folder):
        data = fs.cat_file(f"{path}/{DATA}/{unit.file_name}")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        table = file.read(use_threads=False)
        table.validate(full=True)
        footer = footer_in(file.metadata.metadata)
        if footer is None:
            return Checked(unit, fault="it was not written by Trimline")
        fault = next(_faults(unit, table, footer), None)
        foreign = next(_disagreements(unit, table, footer, manifest, plan), None)
        counts = Counter(footer.totals.status)
        planned = unit.shard < len(plan)
        names = (None, None) if footer.sample_keys is None or fault else names_of(table)
        return Checked(
            unit,
            table.num_rows,
            counts,
            footer.shard_error,
            fault,
            foreign,
            planned,
            names,
            computed_on(footer.stages),
            footer if fault is None and foreign is None else None,
        )
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        return Checked(
            unit, fault=f"it cannot be read: {storage.redact(f'{type(error).__name__}: {error}')[:200]}"
        )


def _faults(unit: Unit, table: pa.Table, footer: Footer) -> Iterator[str]:
    if not table.schema.equals(PREDICTIONS):
        yield "its columns are not those of pipeline/support/schema.py"
    if footer.unit != unit:
        yield f"its footer says that it is {footer.unit.file_name}"
    stated, actual = footer.totals.to_json(), totals_of(table).to_json()
    for name in ("rows", "samples", "status", *COUNTS):
        if stated[name] != actual[name]:
            yield f"its footer counts {stated[name]} {name}, its rows {actual[name]}"
    yield from _key_faults(unit, table)
    stated_names = footer.sample_keys, footer.repeated_question_ids
    if footer.sample_keys is not None and stated_names != names_of(table):
        yield "its footer's sample keys or repeated question ids are not those of its rows"


def _key_faults(unit: Unit, table: pa.Table) -> Iterator[str]:
    """Check that the keys go on from sample to sample and from question to question without a gap."""
    sample, question = unit.first, 0
    for row, (key, number) in enumerate(
        zip(table["key"].to_pylist(), table["sample"].to_pylist(), strict=True)
    ):
        if question and number == sample + 1:
            sample, question = number, 0
        expected = request_key(unit.shard, sample, question)
        if number != sample or key != expected:
            yield f"row {row} has the key {key} and sample {number} in the place of {expected}"
            return
        question += 1
    if sample + bool(question) != unit.stop:
        yield f"its rows end with sample {sample}, its name with {unit.stop - 1}"


def _disagreements(
    unit: Unit, table: pa.Table, footer: Footer, manifest: Manifest, plan: Plan
) -> Iterator[str]:
    for name in ("fingerprint", "schema_version"):
        stated, required = str(getattr(footer, name)), str(getattr(manifest, name))
        if stated != required:
            yield f"its {name} {stated[:16]} is not run.json's {required[:16]}"
    if unit.shard >= len(plan):
        yield f"the plan has no shard {unit.shard}: a part of plan/ may be gone"
        return
    planned = plan.line(unit.shard)
    for name in ("uri", "size", "etag"):
        stated_source = getattr(footer, f"source_{name}")
        if stated_source is not None and stated_source != getattr(planned, name):
            yield f"it was made of a shard of {name} {stated_source}, the plan has {getattr(planned, name)}"
    if not pc.all(pc.equal(table["source"], planned.uri), min_count=0).as_py():
        yield f"its source is not the plan's, {planned.uri}"
    count = planned.samples
    too_short = unit.end and not footer.shard_error and count is not None and unit.stop < count
    if count is not None and (unit.stop > count or too_short):
        yield f"it ends at sample {unit.stop}, the plan has {count} samples"
