"""Gets files of checkpoints from the model hub, or from its cache on this machine alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.support.errors import ConfigError, first_line

_is_asked = True


@contextmanager
def without_hub() -> Iterator[None]:
    """Within this context, take files from the hub's cache alone: no request leaves this machine."""
    global _is_asked
    before, _is_asked = _is_asked, False
    try:
        yield
    finally:
        _is_asked = before


def hub_folder(name: str, patterns: list[str]) -> Path:
    """Return a local folder with the files of a repository (`owner/name`) that match; ConfigError if none."""
    from huggingface_hub import snapshot_download

    with _explaining(name):
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=not _is_asked))


def hub_file(name: str, file: str) -> Path:
    """Return a local copy of one file of a repository; ConfigError if there is none."""
    from huggingface_hub import hf_hub_download

    with _explaining(name):
        return Path(hf_hub_download(name, file, local_files_only=not _is_asked))


@contextmanager
def _explaining(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # the hub's exceptions all derive from these two
        if not _is_asked:
            reason = (
                "this command does not ask the model hub, and its cache on this machine has no such model"
            )
        else:
            reason = f"the hub does not give it: {first_line(error)}"
        raise ConfigError(f"model: no folder {name!r}, and {reason}") from error
