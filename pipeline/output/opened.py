"""Opens what Trimline wrote: a finished output, the arms below a comparison, and what an output was asked."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from pipeline.output.manifest import Manifest, remade
from pipeline.output.plan import Plan, load_plan
from pipeline.output.units import Finished
from pipeline.sources.base import Shard, Source
from pipeline.sources.task import Task
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage, canonical, list_names, read_bytes
from pipeline.support.errors import ConfigError

COMPARISON = "comparison.json"
_WILDCARD = re.compile(r"[*?\[]")


def finished_files(output: str, storage: Storage) -> list[str]:
    """The paths of an output's files; ConfigError if the output is not there or not finished."""
    with storage.reaching("output", output):
        plan = load_plan(output, storage)
        fs, folder = storage.open(output)
        found = Finished(list_names(fs, f"{folder}/data"))
    if plan is None:
        raise ConfigError(f"output: {storage.redact(output)} is no output of Trimline: it has no plan")
    missing = [shard for shard in range(len(plan)) if not found.has_shard(shard)]
    if missing:
        raise ConfigError(
            f"output: {storage.redact(output)} is not finished: {len(missing)} of {len(plan)} shards "
            f"are not, the first is {missing[0]}; run the command that makes it again"
        )
    return [f"{folder}/data/{unit.file_name}" for unit in found]


def outputs_at(place: str, storage: Storage) -> list[str]:
    """The output at a place, or those of the arms below it; ConfigError if there is neither."""
    fs, folder = storage.open(place)
    with storage.reaching("output", place):
        names = sorted(list_names(fs, folder))
        if {"run.json", "plan", "data"} & set(names):
            return [place]
        arms = [name for name in names if fs.exists(f"{folder}/{name}/run.json")]
        compared = read_bytes(fs, f"{folder}/{COMPARISON}")
    arms += [] if compared is None else [arm for arm in json.loads(compared)["arms"] if arm not in arms]
    if not arms:
        raise ConfigError(f"output: {storage.redact(place)} is no output of Trimline: it has no run.json")
    return [f"{place.rstrip('/')}/{arm}" for arm in arms]


@dataclass(frozen=True)
class Asked:
    """Where an output's questions come from, as its run.json tells it.

    `here` is where the source lies now if it has moved: what stands for the plan's own `source` in its URIs.
    """

    folder: str
    plan: Plan
    source: Source
    task: Task
    max_questions: int
    storage: Storage
    here: str

    def entries(self) -> Iterator[File]:
        """The source's files as they are now, under the names that the plan has for them."""
        for file in self.source.entries(self.storage):
            yield replace(file, uri=_moved(file.uri, self.here, self.plan.source))

    def moved(self, shard: Shard) -> Shard:
        """A shard of the plan where it lies now."""
        files = tuple(replace(file, uri=self._now(file.uri)) for file in shard.files)
        return replace(shard, uri=self._now(shard.uri), files=files)

    def _now(self, uri: str) -> str:
        return _moved(uri, self.plan.source, self.here)


def _moved(uri: str, old: str, new: str) -> str:
    before = _root(old)
    return _root(new) + uri.removeprefix(before) if uri.startswith(before) else uri


def _root(source: str) -> str:
    """What the names of a source's files begin with: all of it, or what is before its first wildcard."""
    match = _WILDCARD.search(source)
    return source[: match.start()].rpartition("/")[0] if match else source.rstrip("/")


def asked_of(folder: str, manifest: Manifest, plan: Plan, path: str | None, storage: Storage) -> Asked:
    """What an output was asked; `path` is where its source lies now, if not where it did.

    Raises:
        ConfigError: run.json does not tell.
    """
    here = plan.source if path is None else canonical(path, storage)
    with manifest.describing(folder, storage) as settings:
        source: Source = remade(settings["source"]).relocated(here)
        task = remade(settings["task"], Task)
        return Asked(folder, plan, source, task, int(settings["max_questions"]), storage, here)
