"""Finds the vision tower that runs, and measures how far it is from the one of the CLIP or SigLIP.

A LLaVA's own tower runs wherever the checkpoint holds one: training may have changed it.
"""

import math
import re
from pathlib import Path

import numpy as np

from pipeline.models.checkpoints.layouts import tower_name
from pipeline.models.checkpoints.tensors import FLOATS, Located, locate, read_tensor
from pipeline.support.errors import ConfigError

_LAYER = re.compile(r"encoder\.layers\.(\d+)\.")
_AFTER = "post_layernorm."  # behind the layers that LLaVA reads; the CLIP's is used


def tower_of(folder: Path) -> dict[str, Located]:
    """Find the tensors of a checkpoint's vision tower, by their names within it."""
    return {short: where for name, where in locate(folder).items() if (short := tower_name(name)) is not None}


def tower_folder(llava: Path, clip: Path | None) -> Path:
    """Return the folder whose vision tower runs: the LLaVA's, or the CLIP's if that holds none.

    Raises:
        ConfigError: there is no tower, as in an original LLaVA without `model.clip`.
    """
    if tower_of(llava):
        return llava
    if clip is None:
        raise ConfigError(f"{llava} holds no vision tower weights")
    return clip


def tower_distance(llava: Path, clip: Path, feature_layer: int) -> float:
    """Measure |ours - theirs| / |theirs| over the weights of two towers that LLaVA reads (Frobenius norms).

    0 means that all values are equal, in whatever types they are stored; unrelated towers are some 1.4 apart.

    Args:
        llava, clip: the checkpoints; a LLaVA without a tower runs the CLIP's, at distance 0.
        feature_layer: the layers that count.

    Raises:
        ConfigError: a tensor is in one tower alone, or of another shape.
    """
    ours, theirs = tower_of(llava), tower_of(clip)
    if not ours:
        return 0.0
    apart = size = 0.0
    for name in sorted(filter(lambda name: _is_read(name, feature_layer), theirs)):
        if name not in ours or ours[name].shape != theirs[name].shape:
            raise ConfigError(f"the vision tower in {llava} is not that of {clip}: {name} differs")
        if theirs[name].dtype not in FLOATS and ours[name].dtype == theirs[name].dtype:
            continue  # the positions' numbers, which older checkpoints store
        left, right = (read_tensor(tower[name])[0].ravel() for tower in (ours, theirs))
        size += float(np.vdot(right, right))
        if not np.array_equal(left, right):
            apart += float(np.square(left - right).sum(dtype=np.float64))
    return math.sqrt(apart / size) if size else math.inf if apart else 0.0


def _is_read(name: str, feature_layer: int) -> bool:
    layer = _LAYER.match(name)
    return not name.startswith(_AFTER) and (layer is None or int(layer[1]) < feature_layer)
