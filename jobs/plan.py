"""Runs `trimline benchmark plan`: forecasts the GPUs, hours, bytes and money of a larger job."""

import json
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from jobs.common.build import build, build_target, build_top
from jobs.main import run_as_script

if TYPE_CHECKING:
    from pipeline.storage.uris import Storage

_GROUPS = ("storage", "pricing")


def run(config: DictConfig) -> int:
    """Forecast a job or compare forecasts with runs; print and write figures; returns the exit status."""
    from pipeline.planner.planner import Planning, forecast_job
    from pipeline.planner.terminal import tables
    from pipeline.planner.validate import validate, validation_table
    from pipeline.storage.uris import Storage
    from pipeline.support.table import show

    options = build_top(config, Planning, _GROUPS)
    storage = build(config, "storage", Storage)
    pricing = None if config.get("pricing") is None else build_target(config, "pricing")
    figures: dict[str, object] = {}
    _write(figures, options.json, storage)  # fails early if the file cannot be written
    if options.validate:
        validation = validate(options)
        figures["validation"] = validation
        show(validation_table(validation))
    if options.requests is not None:
        job = forecast_job(options, storage, pricing)
        figures |= job.to_json()
        for part in tables(job):
            show(part)
    _write(figures, options.json, storage)
    return 0


def _write(figures: dict[str, object], file: str | None, storage: "Storage") -> None:
    """Write the figures; without any, only check that the file can be written."""
    from pipeline.storage.uris import write_atomic

    if not file:
        return
    fs, path = storage.open(file)
    with storage.reaching("json", file):
        if not figures:
            probe = f"{path}.probe"
            write_atomic(fs, probe, b"")
            fs.rm_file(probe)
        else:
            write_atomic(fs, path, json.dumps(figures, indent=2).encode())


if __name__ == "__main__":
    run_as_script(__file__)
