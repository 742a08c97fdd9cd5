"""Refuses an output folder that holds what others wrote."""

from collections.abc import Iterable

import fsspec

from pipeline.output.layout import MANIFEST, PLAN, QUESTIONS
from pipeline.output.plan_parts import is_of_plan
from pipeline.storage.uris import Storage, is_temporary, list_names
from pipeline.support.census import is_hidden
from pipeline.support.errors import ConfigError
from pipeline.support.plain_text import printable

_MOST_NAMED = 3
_MOST_OPENED = 200  # of the names in a folder that is about to be refused


def require_own_folder(folder: str, storage: Storage, *, holds_arms: bool = False) -> None:
    """Refuse a folder that has files, but no output of Trimline. What lies beside an output is not touched.

    Hidden files and what programs leave behind do not count, nor do temporary files of a killed start, nor
    the outputs of a sweep below the folder.

    Args:
        holds_arms: whether the outputs lie below the folder, as those of `compare`.

    Raises:
        ConfigError: it names the first files.
    """
    fs, path = storage.open(folder)
    with storage.reaching("output", folder):
        if _is_output(fs, path):
            return
        names = sorted(name for name in list_names(fs, path) if not is_hidden(name) and name != QUESTIONS)
        outputs = {name for name in names[:_MOST_OPENED] if _is_output(fs, f"{path}/{name}")}
    foreign = [name for name in names if name not in outputs]
    if foreign and not (outputs and holds_arms):
        raise ConfigError(
            f"output: {storage.redact(folder)} holds files, but no output of Trimline: "
            f"{_first(foreign)}; choose a new or empty folder"
        )


def require_begun_or_empty(key: str, folder: str, begins_with: str) -> None:
    """Refuse a local folder that has files, but not what is written into it first.

    Raises:
        ConfigError: it names the key and the first files.
    """
    fs, path = Storage().open(folder)
    names = sorted(name for name in list_names(fs, path) if not is_hidden(name))
    if names and begins_with not in names:
        raise ConfigError(
            f"{key}: {folder} holds files of others: {_first(names)}; choose a new or empty folder"
        )


def _is_output(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Tell whether a folder is an output, or one whose first start was killed."""
    if fs.exists(f"{path}/{MANIFEST}"):
        return True
    names = list(list_names(fs, f"{path}/{PLAN}"))
    return bool(names) and all(is_of_plan(name) or is_temporary(name) for name in names)


def _first(names: Iterable[str]) -> str:
    shown = [printable(name) for name in names]
    return ", ".join(shown[:_MOST_NAMED]) + (", ..." if len(shown) > _MOST_NAMED else "")
