"""`trimline report`: what people look at; so far, the patches that outputs kept for a request."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from jobs.build import build, build_fields, class_of
from pipeline.config import free, require
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.report.kept import Opened
    from pipeline.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One request under one or more outputs of the same source."""

    outputs: list[str] = free()
    key: str = free()
    file: str = free("kept.png")

    def __post_init__(self) -> None:
        require(bool(self.outputs), "picture.outputs must not be empty")


def run(config: DictConfig) -> int:
    """Draw and write the picture; returns the exit status."""
    from pipeline.report.kept import draw_kept
    from pipeline.storage import Storage

    picture: Picture = build(config, "picture", Picture)
    storage: Storage = build(config, "storage", Storage)
    opened = [open_output(folder, storage) for folder in picture.outputs]
    drawn = draw_kept(opened, picture.key, storage)
    try:
        drawn.save(picture.file, "PNG")
    except OSError as error:
        raise ConfigError(f"picture.file: {error}") from None
    print(picture.file)
    return 0


def open_output(folder: str, storage: "Storage") -> "Opened":
    """An output as its run.json describes it."""
    from pipeline.config import Model
    from pipeline.demo.names import resolve_source
    from pipeline.imaging import Imaging
    from pipeline.manifest import load_manifest
    from pipeline.report.kept import Opened

    made_with = load_manifest(folder, storage).configuration
    try:
        source = dict(made_with["source"])
        kind = class_of(source.pop("_target_"), "source")
        model = {name: value for name, value in made_with["model"].items() if name != "_target_"}
        return Opened(
            folder=folder,
            source=resolve_source(build_fields(source, kind, "source")),
            model=build_fields(model, Model, "model"),
            imaging=build_fields(made_with["image"], Imaging, "image"),
        )
    except KeyError as error:
        raise ConfigError(f"run.json in {storage.redact(folder)} lacks {json.dumps(error.args[0])}") from None


if __name__ == "__main__":
    import sys

    from jobs.entry import command_line

    sys.exit(command_line("report", sys.argv[1:]))
