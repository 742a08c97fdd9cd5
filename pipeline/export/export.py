"""Runs an export: opens the output, checks that the place is free, and writes the chosen format."""

from collections.abc import Callable

from pipeline.export.answers import Answers, Written
from pipeline.export.llava import write_answers, write_conversations
from pipeline.export.options import ONE_FILE, Export
from pipeline.export.partitions import write_partitions
from pipeline.export.tars import write_webdataset
from pipeline.output.opened import open_output
from pipeline.storage.uris import Storage, canonical, list_names
from pipeline.support.errors import ConfigError

_WRITERS: dict[str, Callable[[Answers], Written]] = {
    "llava": write_conversations,
    "llava_answers": write_answers,
    "webdataset": write_webdataset,
    "parquet": write_partitions,
}


def export(options: Export, storage: Storage, reading: Storage | None = None) -> Written:
    """Write the export.

    Args:
        storage: how to reach the output and `to`.
        reading: how to reach the source; None: as the output.

    Raises:
        ConfigError: there is no finished output; `to` or `images` holds something or cannot be written to, or
            `images` lies at `to`.
        RunError: the source's images cannot be read again.
    """
    output = open_output(options.output, storage).require_finished()
    answers = Answers(options, output, reading or storage)
    _require_free("to", options.to, storage, folder=options.format not in ONE_FILE)
    if options.images is not None:
        _require_apart(options.to, options.images, storage)
        _require_free("images", options.images, storage, folder=True)
    return _WRITERS[options.format](answers)


def _require_apart(to: str, images: str, storage: Storage) -> None:
    """Require that the images do not lie where the file `to` is written, or below it."""
    file, folder = (canonical(uri, storage).rstrip("/") for uri in (to, images))
    if f"{folder}/".startswith(f"{file}/"):
        raise ConfigError(
            f"images: {storage.redact(images)} lies at `to`, which is a file: choose another folder"
        )


def _require_free(key: str, uri: str, storage: Storage, *, folder: bool) -> None:
    """Require that nothing is at a place, or no more than an empty folder if it is to be one."""
    fs, place = storage.open(uri)
    with storage.reaching(key, uri):
        if folder and not fs.isfile(place):
            taken = next(list_names(fs, place), None) is not None
        else:
            taken = fs.exists(place)
    if taken:
        raise ConfigError(f"{key}: {storage.redact(uri)} exists already")
