"""Write: one unit, one file per arm; the file's existence is its commit."""

import json
import time
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.output.footers import FOOTER, totals_of
from pipeline.stages.rows import UnitRow, unpack
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.schema import PREDICTIONS, SCHEMA_VERSION


@dataclass(frozen=True)
class ArmOutput:
    """Where an arm's files go and what stands in each of its rows."""

    folder: str  # URI of the arm's output
    reducer: str
    fingerprint: str
    run_id: str
    model: str


def write_unit(
    batch: pa.Table, *, outputs: tuple[ArmOutput, ...], storage: Storage, attempt: str
) -> pa.Table:
    """Write one unit's REQUESTS; yields the row of statistics that the driver counts with."""
    started, cpu_from = time.time(), time.process_time()
    row = unpack(batch)
    requests = row.tables["requests"]
    totals = []
    for arm in sorted(row.arms(len(outputs))):
        output = outputs[arm]
        own = requests.filter(pc.equal(requests["arm"], arm))
        assert own.num_rows == row.trace["requests"], "a unit lost or gained rows on its way"
        table = _predictions(own, row, output)
        totals.append(totals_of(table))
        visited = row.passed("write", started, {}, cpu_from=cpu_from)
        footer = _footer(visited, output, totals[-1], attempt)
        fs, folder = storage.open(output.folder)
        write_atomic(fs, f"{folder}/data/{row.unit.file_name}", _parquet(table, footer))
    unit = row.unit
    stats = {
        "unit": [unit.shard, unit.first, unit.stop, unit.end],
        "source_bytes": row.trace["source_bytes"],
        "shard_error": row.trace["shard_error"],
        "arms": sorted(row.arms(len(outputs))),
        "totals": totals,
        "stage_s": _stage_seconds(row, started),
    }
    return pa.table({"stats": [json.dumps(stats)]})


def _stage_seconds(row: UnitRow, started: float) -> dict[str, float]:
    """How long each stage had the unit, this one included."""
    visits = row.passed("write", started, {}).trace["stages"]
    return {name: max(0.0, visit["end"] - visit["start"]) for name, visit in visits.items()}


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


def _footer(row: UnitRow, output: ArmOutput, totals: dict[str, Any], attempt: str) -> dict[str, Any]:
    unit, trace = row.unit, row.trace
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": output.fingerprint,
        "shard": unit.shard,
        "first": unit.first,
        "stop": unit.stop,
        "end": unit.end,
        "source_size": trace["source_size"],
        "source_etag": trace["source_etag"],
        "source_bytes": trace["source_bytes"],
        "image_bytes": trace["image_bytes"],
        "shard_error": trace["shard_error"],
        "totals": totals,
        "attempt": attempt,
        "start": trace["stages"]["read"]["start"],
        "end_time": time.time(),
        "stages": trace["stages"],
    }


def _parquet(table: pa.Table, footer: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    described = table.schema.with_metadata({FOOTER: json.dumps(footer).encode()})
    with pq.ParquetWriter(sink, described, compression="zstd", write_page_checksum=True) as writer:
        if table.num_rows:  # a row group of no rows is what `datasets` cannot read
            writer.write_table(table.cast(described))
    return sink.getvalue().to_pybytes()
