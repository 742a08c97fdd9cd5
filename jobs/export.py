"""Runs `trimline export`: writes finished answers in the formats that training and other tools read."""

import sys

from omegaconf import DictConfig

from jobs.common.build import build, build_fields, top_keys
from jobs.common.storages import source_storage
from jobs.main import run_as_script


def run(config: DictConfig) -> int:
    """Write the export; returns the exit status."""
    from pipeline.export.export import export
    from pipeline.export.options import Export
    from pipeline.storage.uris import Storage
    from pipeline.support.plain_text import printable

    keys = top_keys(config, ("storage", "source_storage"))
    keys["source"] = keys["source"]["path"]  # `source` alone would be Hydra's group of that name
    options = build_fields(keys, Export, "")
    storage = build(config, "storage", Storage)
    written = export(options, storage, source_storage(config, storage))
    print(printable(storage.hide(f"{written.rows:,} rows: {options.to}")))
    for note in written.notes:
        print(printable(storage.hide(f"trimline export: {note}")), file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_as_script(__file__)
