"""Creates a file only if nothing is there, so that of several writers at once one is the first."""

import errno
import io
import os
import uuid
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.durable import sync_folder, write_beside
from pipeline.storage.uris import Storage, protocols_of, read_bytes, write_atomic
from pipeline.support.errors import ConfigError

# Stores whose fsspec packages make one request of mode="create"; others look first and then write.
_CONDITIONAL = {"gs", "gcs", "abfs", "abfss", "az", "memory"}
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_IS_THERE = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted", "409"}
_NOT_KNOWN = {"NotImplemented", "501", "InvalidArgument", "InvalidRequest"}
_CONFLICT_S = 60.0  # how long another conditional write of the same name may be under way


class _NotConditionalError(OSError):
    """Says that the store cannot create a file only if there is none."""


def create_atomic(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> bool:
    """Write a file as `write_atomic` does, unless there is one; returns whether it holds `data` now.

    Of writers of different data exactly one gets True. A request whose answer was lost, and that was sent
    again, finds its own file: so equal data count as one's own. Where the store has no such request
    (`require_creates` tells), a look comes before the write, and two writers at once may both get True.
    """
    try:
        _create(fs, path, data)
    except FileExistsError:
        return read_bytes(fs, path) == data
    except _NotConditionalError:
        if fs.exists(path):
            return read_bytes(fs, path) == data
        write_atomic(fs, path, data)
    return True


def require_creates(key: str, folder: str, storage: Storage) -> None:
    """Check that the store of a folder creates a file for one of several writers only; tries it.

    Raises:
        ConfigError: it does not, or it cannot be reached; the line begins with `key`.
    """
    fs, path = storage.open(folder)
    probe = f"{path}/.create.{uuid.uuid4().hex}.tmp"
    with storage.reaching(key, folder):
        try:
            for content in (b"first", b"second"):
                _create(fs, probe, content)
        except FileExistsError:
            return
        except _NotConditionalError:
            pass
        finally:
            if fs.exists(probe):
                fs.rm_file(probe)
    raise ConfigError(
        f"{key}: the store of {storage.redact(folder)} cannot create a file only if there is none, so "
        "several slices could make several plans; run the command once without slice until plan/ is there"
    )


def _create(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Create a file in one step.

    Raises:
        FileExistsError: there is one.
        _NotConditionalError: the store cannot do it.
    """
    protocols = protocols_of(fs)
    if isinstance(fs, LocalFileSystem):
        _link(Path(path), data)
    elif "s3" in protocols:
        _put_on_s3(fs, path, data)
    elif protocols & _CONDITIONAL:
        fs.pipe_file(path, data, mode="create")
    else:
        raise _NotConditionalError(f"{min(protocols)} has no conditional write")


def _link(target: Path, data: bytes) -> None:
    """Write a temporary file, flush it to disk, and give it the name, which fails if the name is taken."""
    temporary = write_beside(target, io.BytesIO(data))
    try:
        os.link(temporary, target)
    except OSError as error:
        if error.errno in _NO_LINKS:
            raise _NotConditionalError(str(error)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


def _put_on_s3(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """PUT with `If-None-Match: *`, again while another such request for the name is under way."""
    from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

    from pipeline.storage.s3 import code_of

    trying = Retrying(
        stop=stop_after_delay(_CONFLICT_S),
        wait=wait_random_exponential(multiplier=0.1, max=5.0),
        retry=retry_if_exception(lambda error: code_of(error) in _CONFLICT),
        reraise=True,
    )
    for attempt in trying:
        with attempt:
            try:  # one request, whatever the size
                fs.pipe_file(path, data, chunksize=len(data) + 1, mode="create")
            except OSError as error:
                if code_of(error) in _IS_THERE:
                    raise FileExistsError(path) from error
                if code_of(error) in _NOT_KNOWN:
                    raise _NotConditionalError(str(error)) from error
                raise
