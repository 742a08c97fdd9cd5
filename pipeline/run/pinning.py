"""Pins the hub ids of a run's model to one commit each, for all nodes and every start of the run."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline.models.checkpoints.folders import pinned
from pipeline.models.config import Model, PinnedModel
from pipeline.models.hub import HubId
from pipeline.output.layout import MANIFEST
from pipeline.storage.uris import canonical, read_bytes

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


def pin_model(config: "RunConfig", commits: dict[HubId, str] | None = None) -> "RunConfig":
    """Return the configuration with a commit in each hub id of its model; run.json records it so.

    An id without revision means the commit in the output's run.json, so that an upload between two starts of
    a run changes nothing; else what `commits` holds of other runs, and then what the hub says now.
    Raises ConfigError if the hub has no such model.
    """
    model = pinned(config.model, _recorded(config), {} if commits is None else commits)
    if model == config.model:
        return config
    settings = {**config.settings.get("model", {}), "path": model.path, "clip": model.clip}
    return replace(config, model=model, settings={**config.settings, "model": settings})


def started_first(groups: Sequence["RunConfig"]) -> list[int]:
    """Order runs that share `commits`: an arm that comes later gets the weights of those that have begun."""
    if len(groups) == 1:
        return [0]
    return sorted(range(len(groups)), key=lambda number: not _recorded(groups[number]))


def with_digests(model: Model, weights: Mapping[str, Any]) -> PinnedModel:
    """Add the digests of the weights that the fingerprint covers (`fingerprint.weights_fields`)."""
    return PinnedModel(**vars(model), weights=weights["weights"], clip_weights=weights.get("clip_weights"))


def _recorded(config: "RunConfig") -> dict[str, object]:
    """Read the model of the run.json of the first arm that has one; what is damaged is told elsewhere."""
    output = canonical(config.options.output, config.storage)
    for arm in config.arms:
        fs, folder = config.storage.open(f"{output}/{arm.folder}".rstrip("/"))
        with config.storage.reaching("output", output):
            data = read_bytes(fs, f"{folder}/{MANIFEST}")
        if data is None:
            continue
        try:
            model = json.loads(data)["configuration"]["model"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        return dict(model) if isinstance(model, dict) else {}
    return {}
