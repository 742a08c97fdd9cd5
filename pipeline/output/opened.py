"""Opens an output, the arms of a comparison, and the source of an output's questions."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import pyarrow.compute as pc

from pipeline.output.changed import file_now
from pipeline.output.failed_shards import place_of
from pipeline.output.footers import Footer, read_footers
from pipeline.output.layout import COMPARISON, DATA, MANIFEST, PLAN, require_arm_names
from pipeline.output.manifest import Json, Manifest, load_manifest, rebuild
from pipeline.output.plan import Plan, require_plan
from pipeline.output.units import Finished, finished_units
from pipeline.sources.base import Shard, Source, files_of
from pipeline.sources.task import Task
from pipeline.storage.listing import File
from pipeline.storage.paths import fixed_part, is_below, literal_part, parts_of, path_of_text, source_text
from pipeline.storage.places import is_folder
from pipeline.storage.uris import Storage, list_names, read_bytes
from pipeline.support.errors import ConfigError


@dataclass(frozen=True)
class Output:
    """Holds an output folder as it was when opened: its run.json, its plan and its finished units."""

    folder: str  # URI
    storage: Storage
    manifest: Manifest
    plan: Plan
    finished: Finished

    def require_finished(self) -> Self:
        """Return the output itself; ConfigError if a shard of its plan is not finished."""
        missing = [shard for shard in range(len(self.plan)) if not self.finished.has_shard(shard)]
        if missing:
            raise ConfigError(
                f"output: {self.storage.redact(self.folder)} is not finished: {len(missing)} of "
                f"{len(self.plan)} shards are not, the first is {place_of(self.plan, missing[0])}; "
                "run the command that makes it again"
            )
        return self

    def names(self) -> list[str]:
        """List the names of the units' files below data/, in order."""
        return [unit.file_name for unit in self.finished]

    def paths(self) -> list[str]:
        """List the paths of the units' files, in order, as the output's file system names them."""
        _, path = self.storage.open(self.folder)
        return [f"{path}/{DATA}/{name}" for name in self.names()]

    def footers(self) -> Iterable[Footer]:
        """Read the footers of all finished units, in order."""
        return read_footers(self.folder, self.finished, self.storage)

    def questions(self, source_path: object = None, reading: Storage | None = None) -> "Questions":
        """Describe where the output's questions come from; see `questions_of`."""
        return questions_of(self.folder, self.manifest, self.plan, source_path, self.storage, reading)


def open_output(
    folder: str, storage: Storage, *, key: str = "output", names: Iterable[str] | None = None
) -> Output:
    """Open an output, finished or not.

    Args:
        folder: a path or URI.
        key: what an error calls the output if its store cannot be reached.
        names: those of the files below data/, if the caller has just listed them.

    Raises:
        ConfigError: there is no output, it cannot be reached or is damaged.
    """
    manifest = load_manifest(folder, storage, key)
    with storage.reaching(key, folder):
        plan = require_plan(folder, storage)
        finished = finished_units(folder, storage, planned=len(plan)) if names is None else Finished(names)
    return Output(folder, storage, manifest, plan, finished)


def outputs_at(place: str, storage: Storage) -> list[str]:
    """List the output at a place, or those of the arms below it; ConfigError if there is neither."""
    fs, folder = storage.open(place)
    with storage.reaching("output", place):
        names = sorted(list_names(fs, folder))
        if {MANIFEST, PLAN, DATA} & set(names):
            return [place]
        arms = [name for name in names if fs.exists(f"{folder}/{name}/{MANIFEST}")]
        comparison = read_bytes(fs, f"{folder}/{COMPARISON}")
    arms += [arm for arm in _compared(comparison, place, storage) if arm not in arms]
    if not arms:
        raise ConfigError(f"output: {storage.redact(place)} is no output of Trimline: it has no run.json")
    return [f"{place.rstrip('/')}/{arm}" for arm in arms]


def _compared(comparison: bytes | None, place: str, storage: Storage) -> list[str]:
    """Read the names of the arms of a comparison.json, if there is one."""
    if comparison is None:
        return []
    try:
        arms = json.loads(comparison)["arms"]
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ConfigError(
            f"{COMPARISON} in {storage.redact(place)} is damaged or of another version"
        ) from None
    return require_arm_names(arms)


@dataclass(frozen=True)
class Questions:
    """Holds the source and the task of an output, as its run.json has them.

    Args:
        storage, reading: how to reach the output and the source.
        source_path: where the source lies now, for messages.
        moved_roots: the folders (or files) that the plan's URIs begin with, each with where it lies now.
    """

    folder: str
    plan: Plan
    source: Source
    task: Task
    max_questions: int
    storage: Storage
    reading: Storage
    source_path: str
    moved_roots: tuple[tuple[str, str], ...]

    def entries(self) -> Iterator[File]:
        """List the source's files as they are now, under the names that the plan has for them."""
        back = [(now, before) for before, now in self.moved_roots]
        for file in files_of(self.source, self.reading):
            yield replace(file, uri=_moved(file.uri, back))

    def file_at(self, uri: str) -> File | None:
        """Look up, as it is now, a file that the plan names; see `changed_files`."""
        file = file_now(self.source, self._now(uri), self.reading)
        return None if file is None else replace(file, uri=uri)

    def moved(self, shard: Shard) -> Shard:
        """Return a shard of the plan with the URIs that its files have now."""
        files = tuple(replace(file, uri=self._now(file.uri)) for file in shard.files)
        return replace(shard, uri=self._now(shard.uri), files=files)

    def _now(self, uri: str) -> str:
        return _moved(uri, self.moved_roots)


def questions_of(
    folder: str,
    manifest: Manifest,
    plan: Plan,
    source_path: object,
    storage: Storage,
    reading: Storage | None = None,
) -> Questions:
    """Make the source and the task of an output again, from its run.json.

    Args:
        source_path: where the source lies now: as many paths as the run had; None: where it did.
        storage, reading: how to reach the output and the source; None: both the same way.

    Raises:
        ConfigError: run.json is of another version, or the paths are more or fewer.
    """
    reading = reading or storage
    before = parts_of(path_of_text(plan.source))
    text = plan.source if source_path is None else source_text(source_path, reading)
    now = parts_of(path_of_text(text))
    if len(now) != len(before):
        raise ConfigError(f"source.path: the run had {len(before)} paths, not {len(now)}")
    old = [_root_in(plan, path) for path in before]
    new = old if now == before else [_root_now(path, reading) for path in now]
    with manifest.explaining_errors(folder, storage) as settings:
        return Questions(
            folder,
            plan,
            source_of(settings).relocated(path_of_text(text)),
            rebuild(settings["task"], Task),
            int(settings["max_questions"]),
            storage,
            reading,
            text,
            tuple(zip(old, new, strict=True)),
        )


def source_of(settings: Json) -> Source:
    """Make the source of an output again, from its run.json's configuration; it asks the store for files.

    Before there was `follow_links`, links were followed.
    """
    source: Source = rebuild(settings["source"])
    is_older = "follow_links" not in settings["source"]
    return replace(source, listing=None, follow_links=source.follow_links or is_older)


def _root_in(plan: Plan, path: str) -> str:
    """Return what the plan's URIs of a path's files begin with."""
    fixed = fixed_part(path)
    if fixed == path.rstrip("/"):
        return fixed
    uris = plan.table["uri"]

    def is_named(start: str) -> bool:
        return bool(pc.any(pc.starts_with(uris, start)).as_py())

    if is_named(f"{path}/") or is_named(f"{path}#") or path in uris.to_pylist():
        return path
    return fixed_part(path, len(literal_part(path, lambda folder: is_named(f"{folder}/"))))


def _root_now(path: str, storage: Storage) -> str:
    """Return what the URIs of a path's files begin with; a folder of this name wins over wildcards."""
    fixed = fixed_part(path)
    if fixed == path.rstrip("/"):
        return fixed
    with storage.reaching("source.path", path):
        fs, place = storage.open(path)
        if fs.exists(place):
            return path
        return fixed_part(path, len(literal_part(path, lambda folder: is_folder(folder, storage))))


def _moved(uri: str, roots: Iterable[tuple[str, str]]) -> str:
    """Replace the deepest of some folders that a URI lies below by another folder."""
    file = uri.partition("#")[0]  # of a piece of a file
    found = [(before, now) for before, now in roots if is_below(uri, before) or file == before]
    if not found:
        return uri
    before, now = max(found, key=lambda pair: len(pair[0]))
    return now.rstrip("/") + uri.removeprefix(before.rstrip("/"))
