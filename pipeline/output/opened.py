"""Opens an output, the arms of a comparison, and the source of an output's questions."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Self

from pipeline.output.failed_shards import place_of
from pipeline.output.footers import Footer, read_footers
from pipeline.output.layout import COMPARISON, DATA, MANIFEST, PLAN
from pipeline.output.manifest import Manifest, load_manifest, rebuild
from pipeline.output.plan import Plan, require_plan
from pipeline.output.units import Finished, finished_units
from pipeline.sources.base import Shard, Source, files_of
from pipeline.sources.task import Task
from pipeline.storage.listing import File, before_wildcard
from pipeline.storage.uris import Storage, canonical, list_names, read_bytes
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

    def questions(self, source_path: str | None = None) -> "Questions":
        """Describe where the output's questions come from; see `questions_of`."""
        return questions_of(self.folder, self.manifest, self.plan, source_path, self.storage)


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
        finished = finished_units(folder, storage) if names is None else Finished(names)
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
    arms += [] if comparison is None else [arm for arm in json.loads(comparison)["arms"] if arm not in arms]
    if not arms:
        raise ConfigError(f"output: {storage.redact(place)} is no output of Trimline: it has no run.json")
    return [f"{place.rstrip('/')}/{arm}" for arm in arms]


@dataclass(frozen=True)
class Questions:
    """Holds the source and the task of an output, as its run.json has them.

    `source_path` is where the source lies now: it replaces the plan's own `source` in the plan's URIs.
    """

    folder: str
    plan: Plan
    source: Source
    task: Task
    max_questions: int
    storage: Storage
    source_path: str

    def entries(self) -> Iterator[File]:
        """List the source's files as they are now, under the names that the plan has for them."""
        for file in files_of(self.source, self.storage):
            yield replace(file, uri=_moved(file.uri, self.source_path, self.plan.source))

    def moved(self, shard: Shard) -> Shard:
        """Return a shard of the plan with the URIs that its files have now."""
        files = tuple(replace(file, uri=self._now(file.uri)) for file in shard.files)
        return replace(shard, uri=self._now(shard.uri), files=files)

    def _now(self, uri: str) -> str:
        return _moved(uri, self.plan.source, self.source_path)


def questions_of(
    folder: str, manifest: Manifest, plan: Plan, source_path: str | None, storage: Storage
) -> Questions:
    """Make the source and the task of an output again, from its run.json.

    Args:
        source_path: where the source lies now; None: where it did.

    Raises:
        ConfigError: run.json is of another version.
    """
    path = plan.source if source_path is None else canonical(source_path, storage)
    with manifest.explaining_errors(folder, storage) as settings:
        source: Source = rebuild(settings["source"]).relocated(path)
        task = rebuild(settings["task"], Task)
        return Questions(folder, plan, source, task, int(settings["max_questions"]), storage, path)


def _moved(uri: str, old: str, new: str) -> str:
    before = _root(old)
    return _root(new) + uri.removeprefix(before) if uri.startswith(before) else uri


def _root(source: str) -> str:
    """Return what the URIs of a source's files begin with; of a glob, the folders before its wildcards."""
    prefix = before_wildcard(source)
    return source.rstrip("/") if prefix is None else prefix.rpartition("/")[0]
