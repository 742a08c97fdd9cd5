"""Compares a run with what its outputs hold already, and finds or makes the plan that they share."""

import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipeline.output.layout import MANIFEST
from pipeline.output.manifest import Manifest, require_same_run
from pipeline.output.own_folder import require_own_folder
from pipeline.output.plan import Plan, load_plan
from pipeline.output.plan_growth import extend_plan, make_plan
from pipeline.storage.create import require_creates
from pipeline.storage.paths import parts_of, path_of_text, source_text
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


def is_begun(config: "RunConfig", folder: str, manifest: Manifest) -> bool:
    """Tell whether an output exists; raise ConfigError if another configuration or source made it."""
    with config.storage.reaching("output", folder):
        plan = load_plan(folder, config.storage)
    if plan is None:
        _require_same_if_there(folder, manifest, config.storage)
        return False
    _require_writable(config, folder)
    require_same_run(folder, manifest, config.storage)
    _require_source(config, plan)
    return True


def current_plan(config: "RunConfig", folders: Sequence[str], manifests: Sequence[Manifest]) -> Plan:
    """Load the outputs' plan, extended if the run says so; make it if no output has one.

    Another run may make it at the same time: then that one is loaded, if it is of the same configuration.

    Raises:
        ConfigError: it is of another configuration or source, or the source lists nothing.
    """

    def claim() -> None:
        """Write run.json before the plan, so that no other configuration takes what this one has listed."""
        for folder, manifest in zip(folders, manifests, strict=True):
            require_same_run(folder, manifest, config.storage)

    source, storage, reading = config.source, config.storage, config.reading
    plan = next(filter(None, (load_plan(folder, storage) for folder in folders)), None)
    if config.options.own_slice and (plan is None or config.options.extend):
        require_creates("slice", folders[0], storage)
    if plan is None:
        plan = make_plan(folders[0], source, config.options.limit, storage, reading, claim)
    elif config.options.extend:
        plan = extend_plan(plan, source, storage, reading)
    _require_source(config, plan)
    return plan


def _require_source(config: "RunConfig", plan: Plan) -> None:
    """Refuse a plan of another source, unless the run extends it."""
    hide = config.storage.redact
    source = source_text(config.source.path, config.reading)
    known = parts_of(path_of_text(plan.source))
    if not set(parts_of(path_of_text(source))) <= set(known) and not config.options.extend:
        raise ConfigError(
            f"output {hide(plan.folder)} belongs to the source {hide(plan.source)}, not {hide(source)}; "
            "choose another output, or append with extend=true"
        )


def _require_same_if_there(folder: str, manifest: Manifest, storage: Storage) -> None:
    """Refuse another run's run.json, and a folder of others, before a plan is written beside it."""
    require_own_folder(folder, storage)
    fs, path = storage.open(folder)
    with storage.reaching("output", folder):
        is_there = fs.exists(f"{path}/{MANIFEST}")
    if is_there:
        require_same_run(folder, manifest, storage)


def _require_writable(config: "RunConfig", output: str) -> None:
    """Write and delete an empty file in the output."""
    with config.storage.reaching("output", output):
        fs, folder = config.storage.open(output)
        probe = f"{folder}/.probe.{uuid.uuid4().hex}.tmp"  # other runs may do the same
        write_atomic(fs, probe, b"")
        fs.rm_file(probe)
