"""Writes a unit: one file per arm. A unit is finished as soon as its file exists."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.footers import FOOTER, KEYS, Footer, Totals, totals_of
from pipeline.output.layout import DATA
from pipeline.output.repeated import names_of
from pipeline.output.units import Unit
from pipeline.stages.rows import UnitRow, unpack_unit
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.schema import PREDICTIONS, SCHEMA_VERSION


@dataclass(frozen=True)
class ArmOutput:
    """Holds an arm's output folder and the constant columns of its rows."""

    folder: str  # URI of the arm's output
    reducer: str
    fingerprint: str
    run_id: str
    model: str


@dataclass(frozen=True, kw_only=True)
class UnitStats:
    """Holds the statistics of a written unit, from which the driver counts progress and metrics.

    Args:
        source_bytes: how much of the source the unit read.
        arms: the numbers of the arms whose files were written.
        totals: those of each of these arms, in the same order.
        stage_s: how long each stage had the unit, by the stages' names.
    """

    unit: Unit
    source_bytes: int
    arms: list[int]
    totals: list[Totals]
    stage_s: dict[str, float]

    @property
    def samples(self) -> int:
        """The number of samples in the unit."""
        return self.unit.stop - self.unit.first

    def to_row(self) -> pa.Table:
        """Return the statistics as a row that Ray Data passes to the driver."""
        return pa.table({"stats": [json.dumps(asdict(self))]})

    @classmethod
    def from_row(cls, row: Mapping[str, str]) -> "UnitStats":
        """Read the statistics out of such a row."""
        data = json.loads(row["stats"])
        totals = [Totals(**counts) for counts in data.pop("totals")]
        return cls(unit=Unit(**data.pop("unit")), totals=totals, **data)


def write_unit(
    batch: pa.Table, *, outputs: tuple[ArmOutput, ...], storage: Storage, attempt: str
) -> pa.Table:
    """Write one unit's REQUESTS, a file per arm.

    Args:
        attempt: when the job was started, for the footers.

    Returns:
        The unit's statistics as a row (`UnitStats`).
    """
    started, cpu_from = time.time(), time.process_time()
    row = unpack_unit(batch)
    arms = sorted(row.arms(len(outputs)))
    requests = row.tables["requests"]
    totals = []
    for arm in arms:
        output = outputs[arm]
        arm_requests = requests.filter(pc.equal(requests["arm"], arm))
        assert arm_requests.num_rows == row.trace["requests"], "a unit lost or gained rows on its way"
        table = _without_secrets(_predictions(arm_requests, row, output), storage)
        totals.append(totals_of(table))
        visited = row.passed("write", started, {}, cpu_from=cpu_from)
        footer = _footer(visited, output, table, totals[-1], attempt)
        fs, folder = storage.open(output.folder)
        write_atomic(fs, f"{folder}/{DATA}/{row.unit.file_name}", _parquet(table, footer))
    visits = row.passed("write", started, {}).trace["stages"]
    return UnitStats(
        unit=row.unit,
        source_bytes=row.trace["source_bytes"],
        arms=arms,
        totals=totals,
        stage_s={stage: visit.seconds for stage, visit in visits.items()},
    ).to_row()


def _predictions(requests: pa.Table, row: UnitRow, output: ArmOutput) -> pa.Table:
    constants = {
        "source": row.trace["uri"],
        "model": output.model,
        "reducer": output.reducer,
        "run_id": output.run_id,
    }
    columns = [
        pa.array([constants[name]] * requests.num_rows, pa.string()) if name in constants else requests[name]
        for name in PREDICTIONS.names
    ]
    return pa.table(columns, schema=PREDICTIONS)


def _without_secrets(predictions: pa.Table, storage: Storage) -> pa.Table:
    """Hide credentials in the errors: those of a stage hold what a user's own code or a library said."""
    errors = predictions["error"]
    if errors.null_count == len(errors):
        return predictions
    shown = [error if error is None else storage.redact(error) for error in errors.to_pylist()]
    place = predictions.schema.get_field_index("error")
    return predictions.set_column(place, predictions.schema.field(place), pa.array(shown, errors.type))


def _footer(row: UnitRow, output: ArmOutput, table: pa.Table, totals: Totals, attempt: str) -> Footer:
    trace, stages = row.trace, row.trace["stages"]
    keys, ids = names_of(table)
    return Footer(
        schema_version=SCHEMA_VERSION,
        fingerprint=output.fingerprint,
        **asdict(row.unit),
        source_uri=trace["uri"],
        source_size=trace["source_size"],
        source_etag=trace["source_etag"],
        source_bytes=trace["source_bytes"],
        image_bytes=trace["image_bytes"],
        shard_error=trace["shard_error"],
        census=trace.get("census"),
        repeated_question_ids=ids,
        sample_keys=keys,
        totals=totals,
        attempt=attempt,
        start=stages["read"].start,
        end_time=time.time(),
        stages=stages,
    )


def _parquet(table: pa.Table, footer: Footer) -> bytes:
    sink = pa.BufferOutputStream()
    described = table.schema.with_metadata({FOOTER: json.dumps(footer.to_json()).encode()})
    with pq.ParquetWriter(sink, described, compression="zstd", write_page_checksum=True) as writer:
        if table.num_rows:  # `datasets` cannot read a row group without rows
            writer.write_table(table.cast(described))
        writer.add_key_value_metadata({KEYS: footer.sample_keys})
    return bytes(sink.getvalue())
