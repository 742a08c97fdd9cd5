"""Opens, reads and writes files by URI through fsspec."""

import io
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, fields
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO  # fsspec's infos are dictionaries with any keys

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.storage.durable import sync_folder, write_beside
from pipeline.storage.names import as_path, as_text
from pipeline.storage.pages import s3_pages
from pipeline.storage.secrets import changed_texts, hide_secrets, way_without_credentials
from pipeline.support.errors import ConfigError, TrimlineError
from pipeline.support.fields import free, require

# Bytes of one ranged read of an S3 file that is opened without further options (s3fs's default block size).
BLOCK_BYTES = 50 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp|\.probe")


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Configures how to reach object storage; null fields come from AWS's environment variables.

    Times are in seconds. During a run, calls are retried for `outage_s`. The credentials are never printed
    and never written to an output.
    """

    anon: bool = free(False)
    endpoint_url: str | None = free(None)
    region: str | None = free(None)
    key: str | None = free(None, repr=False)
    secret: str | None = free(None, repr=False)
    token: str | None = free(None, repr=False)
    connect_timeout_s: float = free(10.0)
    read_timeout_s: float = free(60.0)
    outage_s: float = free(120.0)

    def __post_init__(self) -> None:
        require(self.connect_timeout_s > 0, "storage.connect_timeout_s must be positive")
        require(self.read_timeout_s > 0, "storage.read_timeout_s must be positive")
        require(self.outage_s >= 0, "storage.outage_s must not be negative")
        require(
            (self.key is None) == (self.secret is None),
            "storage.key and storage.secret go together: set both",
        )
        require(
            not (self.anon and (self.key or self.token)),
            "storage.anon: without credentials; leave storage.key, storage.secret and storage.token out",
        )

    @property
    def outputs(self) -> tuple[str, ...]:
        """Folders of outputs, whose files are none of the source's; see `passing_over`."""
        return ()

    def open(self, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """Return the file system of a URI or local path, and the path within it.

        Raises:
            ConfigError: the protocol is unknown, its package is not installed, or the URI holds credentials.
        """
        if way := way_without_credentials(uri):
            raise ConfigError(f"{self.redact(uri)}: a URL must not hold credentials; use {way}")
        try:
            protocol = fsspec.core.split_protocol(uri)[0] or "file"
            if protocol in ("file", "s3", "s3a"):  # names may hold `::`, fsspec's mark of chained URIs
                fs = LocalFileSystem() if protocol == "file" else self._s3()
                path = fs._strip_protocol(uri)
            elif "::" in uri:
                raise ValueError("a path within another file (`::`) is not supported")
            else:
                fs, path = fsspec.core.url_to_fs(uri)
        except Exception as error:  # noqa: BLE001 - of file systems of other packages
            reason = str(error) or type(error).__name__
            raise ConfigError(f"cannot open {self.redact(uri)}: {self.redact(reason)}") from None
        return fs, as_path(os.path.normpath(path)) if isinstance(fs, LocalFileSystem) else path

    def enduring(self) -> "Storage":
        """Return the same storage with retries, for use during a run; without, an outage raises at once."""
        return _InRun(**_fields_of(self), written=self.outputs)

    def passing_over(self, *outputs: str) -> "Storage":
        """Return the same storage, whose listings pass over these folders: canonical URIs of outputs."""
        return _InRun(**_fields_of(self), written=outputs, retry_s=self._retry_s)

    def passing_over_outputs(self, storage: "Storage", *outputs: str) -> "Storage":
        """Return this storage of a source, whose listings pass over outputs that `storage` reaches.

        In another store a folder of the same URI is another folder.
        """
        uris = [canonical(output, storage) for output in outputs]
        is_same = storage.endpoint_url == self.endpoint_url
        return self.passing_over(*(uri for uri in uris if is_same or uri.startswith("file://")))

    @property
    def _retry_s(self) -> float:
        return 0.0

    def _s3(self) -> fsspec.AbstractFileSystem:
        from pipeline.storage.s3 import PatientS3

        timeouts = {"connect_timeout": self.connect_timeout_s, "read_timeout": self.read_timeout_s}
        client = {"endpoint_url": self.endpoint_url, "region_name": self.region}
        return PatientS3(
            outage_s=self._retry_s,
            answer_s=self.connect_timeout_s + self.read_timeout_s,
            anon=self.anon,
            key=self.key,
            secret=self.secret,
            token=self.token,
            client_kwargs={name: value for name, value in client.items() if value},
            config_kwargs=timeouts | {"max_pool_connections": 32},  # botocore has 10
            max_concurrency=1,  # with more, s3fs asks for the size of every file before reading it
            use_listings_cache=False,  # a listing from before the run must not decide which units are missing
        )

    @contextmanager
    def reaching(self, key: str, uri: str) -> Iterator[None]:
        """Turn the store's errors within this context into a ConfigError that names `key`."""
        try:
            yield
        except TrimlineError:
            raise
        except FileNotFoundError:
            raise ConfigError(f"{key}: nothing at {self.redact(uri)}") from None
        except store_errors(uri) as error:
            reason = self.redact(f"{uri}: {str(error) or type(error).__name__}")
            raise ConfigError(f"{key}: cannot use {reason}") from None

    def redact(self, text: str) -> str:
        """Return `text` as one line, without credentials."""
        return " ".join(self.hide(text).split())

    def hide(self, text: str) -> str:
        """Return `text` without credentials: configured, of the environment, and within URLs."""
        return hide_secrets(text, self._secrets)

    def hide_in_data(self, text: str) -> str:
        """Return the text of a file as `hide` does, but for short secrets, which may be any word."""
        return hide_secrets(text, self._secrets, words=False)

    def as_json(self, tree: Any, **options: Any) -> str:  # JSON, and what json.dumps takes
        """Write data as JSON without credentials; names and numbers stay."""
        return json.dumps(changed_texts(tree, self.hide_in_data), **options)

    @property
    def _secrets(self) -> tuple[str | None, ...]:
        return self.key, self.secret, self.token


@dataclass(frozen=True, kw_only=True)
class _InRun(Storage):
    """See `Storage.enduring` and `Storage.passing_over`."""

    written: tuple[str, ...] = free(())
    retry_s: float | None = free(None)  # None: outage_s

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.written

    @property
    def _retry_s(self) -> float:
        return self.outage_s if self.retry_s is None else self.retry_s


def _fields_of(storage: Storage) -> dict[str, Any]:
    return {field.name: getattr(storage, field.name) for field in fields(Storage)}


def store_errors(uri: str) -> tuple[type[Exception], ...]:
    """Return the exception types of failing calls to the store of `uri`: any, of other packages' stores."""
    if not uri.startswith(("s3://", "s3a://")):
        protocol = fsspec.core.split_protocol(uri)[0] or "file"
        return (OSError,) if protocol in ("file", "memory") else (Exception,)
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, BotoCoreError, ClientError)


def canonical(uri: str, storage: Storage) -> str:
    """Return the absolute URI with protocol, the same from every working directory."""
    fs, path = storage.open(uri)
    return as_text(str(fs.unstrip_protocol(path)))


def name_of(uri: str) -> str:
    """Return the last part of a URI's path."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def read_bytes(fs: fsspec.AbstractFileSystem, path: str) -> bytes | None:
    """Read a small file, or return None if it does not exist."""
    try:
        if isinstance(fs, LocalFileSystem):
            with open(path, "rb") as file:  # noqa: PTH123 - of hundreds of thousands of small files
                return file.read()
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def write_atomic(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing.

    Locally a temporary file beside it is flushed to disk and renamed; elsewhere it is one PUT.
    """
    if isinstance(fs, LocalFileSystem):
        _replace(Path(path), io.BytesIO(data))
    else:
        fs.pipe_file(path, data)


def put_atomic(fs: fsspec.AbstractFileSystem, path: str, local: str) -> None:
    """Copy a local file as `write_atomic` does; it need not fit in memory."""
    if isinstance(fs, LocalFileSystem):
        with Path(local).open("rb") as content:
            _replace(Path(path), content)
    else:
        fs.put_file(local, path)


def protocols_of(fs: fsspec.AbstractFileSystem) -> set[str]:
    """Return the names that a store goes by in URIs."""
    return {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)


def is_temporary(name: str) -> bool:
    """Tell whether a name is that of a temporary file, which a killed writer leaves behind."""
    return _TEMPORARY.fullmatch(name) is not None


def _replace(target: Path, content: BinaryIO) -> None:
    temporary = write_beside(target, content)
    try:
        temporary.rename(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def list_names(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    """List the names in a folder, without those below subfolders; none if it does not exist."""
    return (name for name, _ in _entries(fs, folder))


def list_times(
    fs: fsspec.AbstractFileSystem, folder: str, keep: Callable[[str], bool] = bool
) -> Iterator[tuple[str, float]]:
    """List those names in a folder that `keep` takes, with the times of writing.

    Times are in seconds since the epoch, 0 if unknown. On a disk each takes a system call.
    """
    for name, time_of in _entries(fs, folder):
        if keep(name):
            with suppress(FileNotFoundError):  # renamed since it was listed
                yield name, time_of()


def _entries(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[tuple[str, Callable[[], float]]]:
    """Yield the names in a folder, each with a function for its time: a local one takes a system call."""
    if isinstance(fs, LocalFileSystem):
        with os.scandir(folder) if Path(folder).is_dir() else nullcontext(()) as entries:
            yield from ((entry.name, partial(_local_time, entry)) for entry in entries)
        return
    try:
        if "s3" in fs.protocol:
            for page in s3_pages(fs, f"{folder}/", Delimiter="/"):
                for item in page.get("Contents", ()):
                    if not item["Key"].endswith("/"):
                        yield name_of(item["Key"]), item["LastModified"].timestamp
                yield from ((name_of(item["Prefix"]), float) for item in page.get("CommonPrefixes", ()))
        else:
            yield from (
                (name_of(info["name"]), partial(_time_of, info)) for info in fs.ls(folder, detail=True)
            )
    except FileNotFoundError:
        return


def _local_time(entry: "os.DirEntry[str]") -> float:
    return entry.stat().st_mtime


def _time_of(info: dict[str, Any]) -> float:
    """Return when a file was written, from fsspec's info about it; 0 if unknown."""
    time = info.get("mtime") or info.get("created") or info.get("LastModified") or 0
    return time.timestamp() if isinstance(time, datetime) else float(time)
