"""Prepares a run before Ray starts: checks the configuration, freezes the plan, finds the missing units."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.config import Model
from pipeline.models.hub import HubId
from pipeline.output.changed import require_unchanged
from pipeline.output.manifest import Manifest, make_manifest, require_same_run
from pipeline.output.own_folder import require_own_folder
from pipeline.output.plan import Plan
from pipeline.output.plan_growth import share_plan
from pipeline.output.units import Finished, finished_units
from pipeline.run.begun import current_plan, is_begun
from pipeline.run.earlier_rules import require_same_rules
from pipeline.run.fingerprint import counted_fields
from pipeline.run.machine_checks import (
    require_device,
    require_engine,
    require_metrics,
    require_model_room,
    require_unit_fits,
)
from pipeline.run.model_checks import CheckedModel, check_model
from pipeline.run.pinning import pin_model, started_first, with_digests
from pipeline.run.retry import delete_failed_units
from pipeline.run.slices import Slice
from pipeline.sources.base import Source
from pipeline.stages.arms import Arm, reduction_order
from pipeline.stages.pending import PendingShard, pending_rows
from pipeline.storage.paths import path_of_text, source_text
from pipeline.storage.uris import Storage, canonical

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


@dataclass(frozen=True)
class ArmState:
    """Holds one arm's output: its folder, its run.json and its finished units."""

    arm: Arm
    folder: str  # URI
    manifest: Manifest
    finished: Finished


@dataclass(frozen=True)
class Prepared:
    """Holds a run that is ready to start, or has ended. The arms' outputs have equal plans.

    `notes` say what a user should know of the model, one line each. `model` is what the stages load. With an
    `own_slice` only its shards are the run's own, and the finished units of others are not listed.
    """

    plan: Plan
    geometry: Geometry
    states: tuple[ArmState, ...]
    notes: tuple[str, ...] = ()
    model: Model | None = None
    own_slice: Slice | None = None

    @cached_property
    def own(self) -> range:
        """The shards that this run makes: the plan's, or those of its slice."""
        return range(len(self.plan)) if self.own_slice is None else self.own_slice.shards_of(self.plan)

    @cached_property
    def pending(self) -> list[int]:
        """The numbers of the run's own shards that lack units in some arm."""
        return [shard for shard in self.own if not self.has_shard(shard)]

    @property
    def run_id(self) -> str:
        """The arms' run ids, separated by commas."""
        return ",".join(state.manifest.run_id for state in self.states)

    def has_shard(self, shard: int) -> bool:
        """Tell whether every arm has all units of a shard."""
        return all(state.finished.has_shard(shard) for state in self.states)

    def source_of(self, config: "RunConfig") -> Source:
        """Return the source of the whole plan, which may have been extended by other paths."""
        same = source_text(config.source.path, config.reading) == self.plan.source
        return config.source if same else config.source.relocated(path_of_text(self.plan.source))

    def model_of(self, config: "RunConfig") -> Model:
        """Return the model that the stages load: with commits and digests, once it has been checked."""
        return self.model or config.model

    def missing(self, shard: int) -> PendingShard:
        """Work out which units of a shard are finished, and which arms lack the others.

        An example: arm 0 has the units that begin at samples 0 and 64, arm 1 those at 0 and 128. Then the
        unit at 0 is `finished`, and `lacking_arms` is {64: [1], 128: [0]}. Units that no arm has are in
        neither: they are made for all arms.
        """
        ranges = [state.finished.ranges(shard) for state in self.states]  # first -> stop, for each arm
        lacking_arms = {
            first: [arm for arm, units in enumerate(ranges) if first not in units]
            for first in set().union(*ranges)
        }
        return PendingShard(
            shard,
            finished={first: stop for first, stop in ranges[0].items() if not lacking_arms[first]},
            lacking_arms={first: arms for first, arms in lacking_arms.items() if arms},
        )

    def pending_tables(self, shards: int) -> Iterator[pa.Table]:
        """Make the read stage's rows, so many to a table: what each pending shard lacks, and its place."""
        items = ((self.missing(shard), self.plan.place(shard)) for shard in self.pending)
        while rows := list(islice(items, shards)):
            yield pending_rows(rows)


@dataclass(frozen=True)
class _Checked:
    """Holds the results of checking a configuration; `started` says that some output exists already.

    `config` is the configuration with a pinned model.
    """

    config: "RunConfig"
    model: CheckedModel
    folders: list[str]
    manifests: list[Manifest]
    started: bool


def prepare(config: "RunConfig") -> Prepared:
    """Check a configuration, freeze its plan and find the missing units, without Ray.

    Raises:
        ConfigError: the configuration, the source or an output's state is wrong.
    """
    (prepared,) = prepare_all([config])
    return prepared


def prepare_all(groups: Sequence["RunConfig"]) -> list[Prepared]:
    """Prepare several runs that answer the same requests: they share one plan and retry the same units."""
    commits: dict[HubId, str] = {}
    by_number = {number: _check(groups[number], commits) for number in started_first(groups)}
    checked = [by_number[number] for number in range(len(groups))]
    first = groups[0]
    if first.options.retry_failed:
        folders = [folder for group in checked for folder in group.folders]
        with first.storage.reaching("output", first.options.output):
            delete_failed_units(
                folders,
                first.source,
                first.options.retry_statuses,
                first.options.limit,
                first.storage,
                first.reading,
                first.options.own_slice,
            )
    prepared: list[Prepared] = []
    for outputs in checked:
        prepared.append(_freeze_plan(outputs, prepared[0].plan if prepared else None))
    return prepared


def _check(config: "RunConfig", commits: dict[HubId, str]) -> _Checked:
    output = canonical(config.options.output, config.storage)
    require_own_folder(output, config.storage, holds_arms=any(arm.folder for arm in config.arms))
    require_device(config)
    require_engine(config)
    require_metrics(config)
    reduction_order(config.arms)
    config = pin_model(config, commits)
    model = check_model(config)
    require_unit_fits(config, model.geometry)
    outputs = config.folders
    manifests = [
        make_manifest(arm_output, counted, _settings_of(config, arm))
        for arm_output, arm, counted in zip(
            outputs, config.arms, counted_fields(config, model.weights), strict=True
        )
    ]
    started = [is_begun(config, *both) for both in zip(outputs, manifests, strict=True)]
    return _Checked(config, model, outputs, manifests, any(started))


def _settings_of(config: "RunConfig", arm: Arm) -> dict[str, Any]:  # JSON of any form
    """Return the configuration that an arm's run.json holds: the run's, with what is the arm's own."""
    own = {} if arm.clip_text is None else {"clip_text": asdict(arm.clip_text)}
    return {**config.settings, "reducer": arm.settings, **own}


def _freeze_plan(checked: _Checked, shared: Plan | None) -> Prepared:
    """Write the plan and run.json into each output, or check those that exist, and list the finished units.

    Args:
        shared: the plan of another run of the same requests.
    """
    config, folders = checked.config, checked.folders
    storage = config.storage
    plan = shared or current_plan(config, folders, checked.manifests)
    own_slice = config.options.own_slice
    own = None if own_slice is None else own_slice.shards_of(plan)
    manifests = []
    for folder, manifest in zip(folders, checked.manifests, strict=True):
        share_plan(plan, folder, storage, own)
        manifests.append(require_same_run(folder, manifest, storage))
    states = [
        ArmState(arm, folder, manifest, finished_units(folder, storage, only=own, planned=len(plan)))
        for arm, folder, manifest in zip(config.arms, folders, manifests, strict=True)
    ]
    prepared = Prepared(
        plan,
        checked.model.geometry,
        tuple(states),
        checked.model.notes,
        with_digests(config.model, checked.model.weights),
        own_slice,
    )
    if prepared.pending:
        require_model_room(config, prepared.geometry)
    if prepared.pending and checked.started:
        source = prepared.source_of(config)
        require_unchanged(plan, prepared.has_shard, source, storage, config.reading, own)
        require_same_rules(config, source, plan, states[0].finished, manifests, own)
    return prepared


def look_again(prepared: Prepared, storage: Storage) -> Prepared:
    """List the finished units again."""
    only, planned = None if prepared.own_slice is None else prepared.own, len(prepared.plan)
    states = [
        replace(state, finished=finished_units(state.folder, storage, only=only, planned=planned))
        for state in prepared.states
    ]
    return replace(prepared, states=tuple(states))
