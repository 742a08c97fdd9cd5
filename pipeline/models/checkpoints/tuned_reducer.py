"""Reads from config.json the reducer that a checkpoint was tuned with, as TRIM's authors' fork writes it.

`mm_vision_token_reduce_func` is read by llava/model/multimodal_encoder/clip_encoder.py of the repository
FreedomIntelligence/TRIM:

| in config.json | what it does | here |
|---|---|---|
| missing, or empty | all tokens | no reducer is named |
| `TRIM:-1` | outliers by the interquartile-range rule, and the mean of the rest | `Trim()` |
| `TRIM:r` | the int(N r) highest, and the mean of the rest | `Trim(keep_ratio=r)` |
| `TextSim+:...` | its name in an earlier version of that file | as `TRIM` |
| `TextSim:...` | the same without the mean | `Trim(..., aggregate=False)` |

Other names of that fork's experiments (PCA, KMEANS, Pooling, ...) have no counterpart.
"""

import re

from pipeline.models.checkpoints.files import Json, read_config
from pipeline.models.checkpoints.folders import resolve_small
from pipeline.models.checkpoints.original import REDUCE_FUNC
from pipeline.models.config import Model
from pipeline.support.errors import ConfigError

_KNOWN = re.compile(r"(TRIM|TextSim\+?):\s*(-?[0-9.]+)")


def tuned_with(model: Model) -> tuple[str, Json | None] | None:
    """Return the reduction that a checkpoint names, and the fields of the equal `Trim`.

    None if it names none; the fields are None where there is no counterpart.
    Raises ConfigError if there is no such checkpoint.
    """
    reduction = read_config(resolve_small(model.path)).get(REDUCE_FUNC)
    return (str(reduction), _fields(str(reduction))) if reduction else None


def _fields(reduction: str) -> Json | None:
    match = _KNOWN.fullmatch(reduction.strip())
    try:
        ratio = float(match[2]) if match else 0.0
    except ValueError:
        return None
    if not match or not (ratio == -1 or 0 < ratio <= 1):
        return None
    aggregate = match[1] != "TextSim"
    return {"keep_ratio": None if ratio == -1 else ratio, "num_kept": None, "aggregate": aggregate}


def require_counterpart(reduction: str, fields: Json | None) -> Json:
    """Return the fields; ConfigError if there are none."""
    if fields is None:
        raise ConfigError(
            f"reducer: the checkpoint was tuned with {REDUCE_FUNC}={reduction!r}, which no reducer here "
            "does; choose one with reducer=NAME"
        )
    return fields
