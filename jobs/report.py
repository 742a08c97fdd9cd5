"""Runs `trimline report`: writes report.html of an output, or draws the patches kept for one request."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from jobs.common.build import build
from jobs.common.storages import source_storage
from jobs.main import run_as_script
from pipeline.support.errors import ConfigError
from pipeline.support.fields import free, require

if TYPE_CHECKING:
    from pipeline.storage.uris import Storage


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Holds the keys below `report`: how many requests the gallery shows, and the seed that chooses them."""

    gallery: int = free(200)
    seed: int = free(0)

    def __post_init__(self) -> None:
        require(self.gallery >= 0, "report.gallery must not be negative")
        require(self.seed >= 0, "report.seed must not be negative")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Holds the keys below `picture`: one request, under one or more outputs of the same source."""

    outputs: list[str] = free()
    key: str = free()
    file: str = free("kept.png")

    def __post_init__(self) -> None:
        require(bool(self.outputs), "picture.outputs must not be empty")


def run(config: DictConfig) -> int:
    """Write the report of `output`, or draw `picture`; returns the exit status."""
    from pipeline.report.write import write_report_files
    from pipeline.storage.uris import Storage
    from pipeline.support.plain_text import printable

    storage = build(config, "storage", Storage)
    reading = source_storage(config, storage)
    options = build(config, "report", ReportOptions)
    is_picture = not all(OmegaConf.is_missing(config.picture, key) for key in ("outputs", "key"))
    if (config.output is None) != is_picture:
        raise ConfigError(
            "output, picture: give output=FOLDER for a report, or picture.outputs=[...] and picture.key=KEY "
            "for a picture, and not both"
        )
    if is_picture:
        print(printable(_draw(build(config, "picture", Picture), storage, reading)))
    else:
        for file in write_report_files(str(config.output), storage, reading, **vars(options)):
            print(printable(storage.hide(file)))
    return 0


def _draw(picture: Picture, storage: "Storage", reading: "Storage") -> str:
    from pipeline.output.opened import open_output
    from pipeline.report.kept_patches import draw_kept

    outputs = [open_output(folder, storage) for folder in picture.outputs]
    image = draw_kept(outputs, picture.key, reading)
    try:
        image.save(picture.file, "PNG")
    except OSError as error:
        raise ConfigError(f"picture.file: {error}") from None
    return picture.file


if __name__ == "__main__":
    run_as_script(__file__)
