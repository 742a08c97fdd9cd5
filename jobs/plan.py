"""Runs `trimline benchmark plan`: forecasts the GPUs, hours, bytes and money of a larger job."""

import json
from typing import Any

from omegaconf import DictConfig

from jobs.common.build import build, build_top
from jobs.main import run_as_script

_GROUPS = ("storage", "pricing")


def run(config: DictConfig) -> int:
    """Plan, or hold plans against runs; print, and write the figures; returns the exit status."""
    from pipeline.planner.planner import Planning, plan
    from pipeline.planner.terminal import tables
    from pipeline.planner.validate import measure, table
    from pipeline.storage.uris import Storage
    from pipeline.support.table import show

    options = build_top(config, Planning, _GROUPS)
    storage = build(config, "storage", Storage)
    pricing = None if config.get("pricing") is None else build(config, "pricing")
    figures: dict[str, Any] = {}
    _write(figures, options.json, storage)  # a file that cannot be written is told before, not after
    if options.validate:
        figures["validation"] = measure(options)
        show(table(figures["validation"]))
    if options.requests is not None:
        found = plan(options, storage, pricing)
        figures |= found.told()
        for part in tables(found):
            show(part)
    _write(figures, options.json, storage)
    return 0


def _write(figures: dict[str, Any], file: str | None, storage: Any) -> None:
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
