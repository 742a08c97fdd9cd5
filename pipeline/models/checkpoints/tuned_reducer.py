"""The reduction that a checkpoint was tuned with, as TRIM's authors' fork writes it into config.json.

`mm_vision_token_reduce_func` is read by llava/model/multimodal_encoder/clip_encoder.py of the repository
FreedomIntelligence/TRIM:

| there | what it does | here |
|---|---|---|
| missing, or empty | all tokens | nothing is said about a reducer |
| `TRIM:-1` | outliers by the interquartile-range rule, and the mean of the rest | `Trim()` |
| `TRIM:r` | the int(N r) highest, and the mean of the rest | `Trim(keep_ratio=r)` |
| `TextSim+:...` | its name in an earlier version of that file | as `TRIM` |
| `TextSim:...` | the same without the mean | `Trim(..., aggregate=False)` |

Other names of that fork's experiments (PCA, KMEANS, Pooling, ...) have no counterpart.
"""

import re
from typing import Any

from pipeline.models.checkpoints.folders import resolve
from pipeline.models.checkpoints.original import REDUCE_FUNC
from pipeline.models.checkpoints.tensors import read_config
from pipeline.models.config import Model
from pipeline.support.errors import ConfigError

_KNOWN = re.compile(r"(TRIM|TextSim\+?):\s*(-?[0-9.]+)")


def tuned_with(model: Model) -> tuple[str, dict[str, Any] | None] | None:
    """What a checkpoint says of its reduction, and the fields of `Trim` that do the same.

    None if it says nothing; the fields are None where there is no counterpart.
    Raises ConfigError if there is no such checkpoint.
    """
    told = read_config(resolve(model.path)).get(REDUCE_FUNC)
    return (str(told), _fields(str(told))) if told else None


def _fields(told: str) -> dict[str, Any] | None:
    found = _KNOWN.fullmatch(told.strip())
    try:
        ratio = float(found[2]) if found else 0.0
    except ValueError:
        return None
    if not found or not (ratio == -1 or 0 < ratio <= 1):
        return None
    aggregate = found[1] != "TextSim"
    return {"keep_ratio": None if ratio == -1 else ratio, "num_kept": None, "aggregate": aggregate}


def require_counterpart(told: str, fields: dict[str, Any] | None) -> dict[str, Any]:
    """The fields; ConfigError if there are none."""
    if fields is None:
        raise ConfigError(
            f"reducer: the checkpoint was tuned with {REDUCE_FUNC}={told!r}, which no reducer here does; "
            "choose one with reducer=NAME"
        )
    return fields
