"""Where bytes come from and go to: every URI goes through fsspec."""

import os
import re
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipeline.config import free, require
from pipeline.errors import ConfigError

SECRET_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN")
_URL_SECRETS = re.compile(
    r"(?<=://)[^/\s@]+@|(?<=[?&])(?:X-Amz-[\w-]+|Signature|sig|token)=[^&\s]+", re.IGNORECASE
)
_CREDENTIALS = re.compile(
    r"(?!file:)[\w+]+://[^/\s@:]*:[^/\s@]*@|https?://.*[?&](?:X-Amz-Signature|Signature|sig|token)=",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How object storage is reached; what is left out comes from the usual AWS environment variables.

    Timeouts are in seconds. The credentials are never printed and never written to an output.
    """

    endpoint_url: str | None = free(None)
    region: str | None = free(None)
    key: str | None = free(None, repr=False)
    secret: str | None = free(None, repr=False)
    token: str | None = free(None, repr=False)
    connect_timeout_s: float = free(10.0)
    read_timeout_s: float = free(60.0)

    def __post_init__(self) -> None:
        require(self.connect_timeout_s > 0, "storage.connect_timeout_s must be positive")
        require(self.read_timeout_s > 0, "storage.read_timeout_s must be positive")
        require(
            (self.key is None) == (self.secret is None),
            "storage.key and storage.secret go together: set both",
        )

    def open(self, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system of a URI or local path, and the path within it.

        Raises:
            ConfigError: the protocol is unknown, its package is not installed, or the URI holds credentials.
        """
        if _CREDENTIALS.match(uri):
            raise ConfigError(
                f"{self.redact(uri)}: a URL must not hold credentials, since outputs name their source: "
                "use storage.* or the environment"
            )
        try:
            options = self._s3_options() if uri.startswith(("s3://", "s3a://")) else {}
            fs, path = fsspec.core.url_to_fs(uri, **options)
        except (ValueError, ImportError) as error:
            raise ConfigError(f"cannot open {self.redact(uri)}: {self.redact(str(error))}") from None
        return fs, os.path.normpath(path) if isinstance(fs, LocalFileSystem) else path

    def _s3_options(self) -> dict[str, Any]:
        timeouts = {"connect_timeout": self.connect_timeout_s, "read_timeout": self.read_timeout_s}
        client = {"endpoint_url": self.endpoint_url, "region_name": self.region}
        return {
            "key": self.key,
            "secret": self.secret,
            "token": self.token,
            "client_kwargs": {name: value for name, value in client.items() if value},
            "config_kwargs": timeouts,
            # a listing that is older than the run must never decide what is missing
            "use_listings_cache": False,
            "skip_instance_cache": False,
        }

    @contextmanager
    def reaching(self, key: str, uri: str) -> Iterator[None]:
        """Turn what a store raises while `uri` is used into a ConfigError that names `key`."""
        try:
            yield
        except FileNotFoundError:
            raise ConfigError(f"{key}: nothing at {self.redact(uri)}") from None
        except _store_errors(uri) as error:
            raise ConfigError(f"{key}: cannot use {self.redact(f'{uri}: {error}')}") from None

    def redact(self, text: str) -> str:
        """`text` in one line, without credentials."""
        return " ".join(self.hide(text).split())

    def hide(self, text: str) -> str:
        """`text` without credentials: configured ones, those of the environment, and those within URLs."""
        return hide_secrets(text, [self.key, self.secret, self.token])


def hide_secrets(text: str, secrets: Iterable[str | None]) -> str:
    """`text` without `secrets`, those of the environment, and those within URLs."""
    for secret in (*secrets, *(os.environ.get(name) for name in SECRET_VARIABLES)):
        if secret and len(secret) >= 4:
            text = text.replace(secret, "***")
    return _URL_SECRETS.sub("***", text)


def _store_errors(uri: str) -> tuple[type[Exception], ...]:
    if not uri.startswith(("s3://", "s3a://")):
        return (OSError,)
    from botocore.exceptions import BotoCoreError, ClientError

    return (OSError, BotoCoreError, ClientError)


def canonical(uri: str, storage: Storage) -> str:
    """The absolute URI, with protocol, that names the same thing from every working directory."""
    fs, path = storage.open(uri)
    return str(fs.unstrip_protocol(path))


def name_of(uri: str) -> str:
    """The last part of a URI's path."""
    return uri.rstrip("/").rsplit("/", 1)[-1]


def read_bytes(fs: fsspec.AbstractFileSystem, path: str) -> bytes | None:
    """A small file's bytes, or None if it does not exist."""
    try:
        return bytes(fs.cat_file(path))
    except FileNotFoundError:
        return None


def write_atomic(fs: fsspec.AbstractFileSystem, path: str, data: bytes) -> None:
    """Write a file that is seen whole or not at all.

    Locally a temporary file beside it is flushed to disk and renamed; elsewhere it is one PUT.
    """
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(target)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_names(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[str]:
    """Names of the files directly in a folder; none if it does not exist."""
    if isinstance(fs, LocalFileSystem):
        if Path(folder).is_dir():
            with os.scandir(folder) as entries:
                yield from (entry.name for entry in entries)
        return
    try:
        listing = fs.ls(folder, detail=False)
    except FileNotFoundError:
        return
    for path in listing:
        yield path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class File:
    """One line of a listing: canonical URI, size in bytes, etag (or modification time)."""

    uri: str
    size: int
    etag: str


def list_files(uri: str, storage: Storage) -> Iterator[File]:
    """A file, the files below a folder, or those that match a glob, sorted by URI.

    Raises:
        ConfigError: there is nothing at the path, or it may not be listed.
    """
    fs, path = storage.open(uri)
    with storage.reaching("source.path", uri):
        info = _info(fs, path)
        if info is not None and info["type"] == "file":
            yield _file(fs, info)
        elif isinstance(fs, LocalFileSystem) and Path(path).is_dir():
            yield from _walk(path)
        elif any(mark in path for mark in "*?["):
            found = fs.glob(path, detail=True)
            yield from (_file(fs, info) for _, info in sorted(found.items()) if info["type"] == "file")
        else:
            found = fs.find(path, detail=True)
            if not found:
                raise FileNotFoundError(path)
            yield from (_file(fs, info) for _, info in sorted(found.items()))


def _info(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """What is at a path, or None; unlike `isfile` it does not take a store that is away for no file."""
    try:
        return dict(fs.info(path))
    except (FileNotFoundError, PermissionError):  # a folder or a glob may still be listed
        return None


def _walk(folder: str) -> Iterator[File]:
    """Files below a local folder in the order of their whole paths, one folder in memory at a time."""
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name + ("/" if entry.is_dir() else ""))
    for entry in ordered:
        if entry.is_dir():
            yield from _walk(entry.path)
        elif entry.is_file():
            stat = entry.stat()
            yield File(f"file://{entry.path}", stat.st_size, f"{stat.st_mtime_ns:x}")


def _file(fs: fsspec.AbstractFileSystem, info: dict[str, Any]) -> File:
    if isinstance(fs, LocalFileSystem):
        return File(f"file://{info['name']}", info["size"], f"{Path(info['name']).stat().st_mtime_ns:x}")
    etag = info.get("ETag") or info.get("etag") or info.get("LastModified") or info.get("mtime") or ""
    return File(fs.unstrip_protocol(info["name"]), info["size"], str(etag).strip('"'))
