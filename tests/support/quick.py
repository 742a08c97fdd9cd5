"""Make outputs without models: plan, units, statuses and files are real, only the answers are invented."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.output.done import forget_sums
from pipeline.output.manifest import make_manifest, require_same_run
from pipeline.output.plan import load_plan
from pipeline.output.plan_growth import make_plan, share_plan
from pipeline.output.summary import mark_success, summarise
from pipeline.output.units import Finished, UnitLimits
from pipeline.run.prepare import ArmState, Prepared
from pipeline.sources.task import Task, requests_of
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.read import read_shard
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.stages.write import ArmOutput, write_unit
from pipeline.storage.uris import Storage, canonical, list_names
from pipeline.support.schema import REQUESTS, VOLATILE
from tests.support.tars import write_tar

HERE = Storage()
TASK = Task(source_questions=True)


def quick_answer(
    source: Any, output: Path, *arms: str, device: str | None = None, clip: str | None = None, **limits: int
) -> None:
    """Write every missing unit file as a run does, then summary.json and _SUCCESS.

    `device` and `clip` name what the footers say that answers and visual tokens were computed on.
    """
    prepared = quick_prepare(source, output, *arms, **limits)
    outputs = tuple(
        ArmOutput(state.folder, "full", state.manifest.fingerprint, "run", "none")
        for state in prepared.states
    )
    for state in prepared.states:
        forget_sums(state.folder, prepared.pending, len(prepared.plan), HERE)
    for number in prepared.pending:
        shard = prepared.plan.shard(number, HERE)
        _, finished, lacking_arms = prepared.missing(number)
        reading = {"storage": HERE, "task": TASK, "limits": UnitLimits(**limits)}
        for unit in read_shard(source, shard, finished=finished, lacking_arms=lacking_arms, **reading):
            row = _answered(unpack_unit(unit), len(outputs), {"generate": device, "encode": clip or device})
            write_unit(pack_unit(row), outputs=outputs, storage=HERE, attempt="1")
    for state in quick_prepare(source, output, *arms, **limits).states:
        assert all(state.finished.has_shard(shard) for shard in range(len(prepared.plan)))
        summary = summarise(state.folder, prepared.plan, state.finished, HERE)
        if not summary.failed_shards:
            mark_success(state.folder, HERE)


def quick_prepare(source: Any, output: Path, *arms: str, **limits: int) -> Prepared:
    """Prepare a run from the smallest possible configuration."""
    parts = {"source": source, "task": TASK}
    settings: dict[str, Any] = {
        name: {"_target_": f"{type(part).__module__}.{type(part).__qualname__}", **vars(part)}
        for name, part in parts.items()
    }
    settings["max_questions"] = UnitLimits(**limits).max_questions
    folders = [canonical(str(output / arm), HERE) for arm in arms or ("",)]
    plan = load_plan(folders[0], HERE) or make_plan(folders[0], source, None, HERE)
    states = []
    for folder in folders:
        share_plan(plan, folder, HERE)
        manifest = make_manifest(folder, {"limits": limits, "source": {"rules": source.rules}}, settings)
        require_same_run(folder, manifest, HERE)
        names = list_names(*HERE.open(f"{folder}/data"))
        states.append(ArmState(SimpleNamespace(), folder, manifest, Finished(names)))
    return Prepared(plan, SimpleNamespace(), tuple(states))


def quick_outputs(folder: Path) -> None:
    """Write an output to `out` and a comparison of two arms to `arms`, two samples per unit."""
    source = WebDataset(path=str(write_tar(folder / "a.tar", 5, questions=2, width=24)))
    quick_answer(source, folder / "out", unit_samples=2)
    quick_answer(source, folder / "arms", "full", "trim", unit_samples=2)


def _answered(row: UnitRow, arms: int, devices: dict[str, str | None]) -> UnitRow:
    """Turn a unit's samples into answered requests; faulty samples keep their status."""
    requests = []
    for sample in row.tables["samples"].to_pylist():
        for request in requests_of(row.unit.shard, sample):
            answer = {"prediction": "yes", "generated_tokens": 1} if sample["status"] == "ok" else {}
            lasting = {name: sample[name] for name in ("sample", "sample_key", "status", "error")}
            requests.append({**lasting, **request, **answer})
    lines = [{"arm": arm, **request} for arm in range(arms) for request in requests]
    for stage in ("decode", "encode", "generate"):
        row = row.passed(stage, 0.0, {}, device=devices.get(stage))
    return replace(row, tables={"requests": pa.Table.from_pylist(lines, schema=REQUESTS)})


def lasting_rows(output: Path) -> list[dict[str, Any]]:
    """Read all rows of an output in order, without the columns that differ between runs."""
    files = sorted(file for file in (output / "data").iterdir() if not file.name.startswith("."))
    table = pa.concat_tables(pq.ParquetFile(file).read() for file in files)
    return table.drop_columns(list(VOLATILE)).to_pylist()
