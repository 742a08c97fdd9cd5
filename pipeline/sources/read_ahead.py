"""Reads samples whose images are files of their own: from a store, several at once."""

import dataclasses
import errno
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.sources.base import AHEAD, MAX_IMAGE_BYTES, Sample
from pipeline.storage.opener import LinkRefusedError, RefusedFileError, read_local
from pipeline.storage.uris import Storage, canonical
from pipeline.support.errors import BadImage, BadSample, DataFault

# Larger samples are not read ahead. AHEAD of this size take half of a unit's memory.
AHEAD_BYTES = 4 << 20

# Reads a sample, or returns None if it is larger than the limit in bytes. A limit of None allows any size.
Read = Callable[[int | None], Sample | None]


def read_ahead(items: Iterable[Read | Sample | None], root: str, storage: Storage) -> Iterator[Sample | None]:
    """Yield samples in order, reading up to AHEAD of them at once in a thread pool.

    Files of a local `root` are read one by one. Memory is bounded: a sample larger than AHEAD_BYTES is read
    when its turn comes, and an item that is no `Read` is yielded after all pending reads. An exception of
    a `Read` is raised in its sample's place.
    """
    if "file" in storage.open(root)[0].protocol:  # on a local disk threads would only compete
        yield from (item(None) if callable(item) else item for item in items)
        return
    pending: deque[tuple[Read, Future[Sample | None]]] = deque()
    with ThreadPoolExecutor(AHEAD, "read") as threads:  # closing the generator waits for running reads
        for item in items:
            if callable(item):
                pending.append((item, threads.submit(item, AHEAD_BYTES)))
            while pending and (len(pending) == AHEAD or not callable(item)):
                yield _result(*pending.popleft())
            if not callable(item):
                yield item
        while pending:
            yield _result(*pending.popleft())


def _result(read: Read, future: Future[Sample | None]) -> Sample | None:
    sample = future.result()
    return read(None) if sample is None else sample


def with_image(
    sample: Sample,
    root: str,
    path: str,
    storage: Storage,
    max_bytes: int | None,
    *,
    follow_links: bool = False,
) -> Sample | None:
    """Return the sample with its image, or with the fault of that image.

    With all arguments bound but `max_bytes` it is a `Read`.
    """
    try:
        data = read_image(root, path, storage, max_bytes, follow_links=follow_links)
    except DataFault as fault:
        return dataclasses.replace(sample, fault=fault)
    return None if data is None else dataclasses.replace(sample, image=data)


def read_image(
    root: str, path: str, storage: Storage, max_bytes: int | None, *, follow_links: bool = False
) -> bytes | None:
    """Read an image named relative to `root`; None if it is larger than `max_bytes`.

    Raises:
        BadSample: the path leads out of `root`, or over a link below it that is not followed.
        BadImage: the file does not exist, may not be read, is no regular file, or is larger than
            MAX_IMAGE_BYTES.
    """
    shown = storage.redact(path[:200])
    name = _path_below_root(canonical(root, storage).rstrip("/"), path)
    if name is None:
        raise BadSample(f"the image {shown} is not below {storage.redact(root)}")
    fs, folder = storage.open(root)
    limit = MAX_IMAGE_BYTES if max_bytes is None else max_bytes
    try:
        data = _first_bytes(fs, folder.rstrip("/"), name, limit + 1, follow_links)
    except LinkRefusedError as error:
        raise BadSample(f"cannot read the image {shown}: {error}") from None
    except RefusedFileError as error:
        raise BadImage(f"cannot read the image {shown}: {error}") from None
    except (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, ValueError) as error:
        raise BadImage(f"cannot read the image {shown}: {type(error).__name__}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise BadImage(f"cannot read the image {shown}: its name is too long") from None
        if error.errno != errno.EINVAL:
            raise
        data = b""  # S3 refuses a range of an empty object
    if len(data) <= limit:
        return data
    if max_bytes is not None:
        return None
    raise BadImage(f"the image {shown} is too large: more than {MAX_IMAGE_BYTES} bytes")


def _first_bytes(
    fs: fsspec.AbstractFileSystem, folder: str, name: str, most: int, follow_links: bool
) -> bytes:
    path = f"{folder}/{name}"
    if isinstance(fs, LocalFileSystem):
        return read_local(path, folder or "/", most - 1, follow_links=follow_links)
    return bytes(fs.cat_file(path, start=0, end=most))


def _path_below_root(root: str, path: str) -> str | None:
    """Return an image's path relative to the URI `root`; None if it leads out of it.

    `path` may be relative, absolute or a URI. fsspec must not parse it: `a::b` and `x://y` mean more to it.
    """
    uri = f"file://{path}" if path.startswith("/") else re.sub("^s3a://", "s3://", path)
    if uri.startswith(f"{root}/"):
        uri = uri.removeprefix(f"{root}/")
    elif "://" in uri:
        return None
    parts = [part for part in uri.split("/") if part != "."]
    return "/".join(parts) if any(parts) and ".." not in parts else None
