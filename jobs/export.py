"""`trimline export`: finished answers in the forms that training and other tools read."""

from omegaconf import DictConfig

from jobs.common.build import build, build_fields, plain


def run(config: DictConfig) -> int:
    """Write the export; returns the exit status."""
    from pipeline.export import Export, export
    from pipeline.storage.uris import Storage

    own = {name: value for name, value in plain(config).items() if name != "storage"}
    own["source"] = own["source"]["path"]  # `source` alone would be Hydra's group of that name
    options: Export = build_fields(own, Export, "")
    storage: Storage = build(config, "storage", Storage)
    rows = export(options, storage)
    print(storage.hide(f"{rows:,} rows: {options.to}"))
    return 0
