"""The encoder of a model: which family's, and with which of its two checkpoints."""

from typing import Any

import torch

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.folders import folders
from pipeline.models.checkpoints.kinds import SIGLIP
from pipeline.models.config import Model
from pipeline.models.preprocess import preprocessor_of
from pipeline.models.towers import Towers


def load_encoder(
    model: Model,
    geometry: Geometry,
    *,
    needs: frozenset[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> Towers:
    """Both towers of a model, in `dtype` or else the model's own `encode_dtype`.

    `needs`: the fields of VisualTokens that will be asked for. Raises ConfigError if weights are missing.
    """
    llava, clip = folders(model)
    given: dict[str, Any] = {
        "feature_layer": geometry.feature_layer,
        "normalization": preprocessor_of(model).normalization,
        "needs": needs,
        "device": device,
        "dtype": dtype or getattr(torch, model.encode_dtype),
    }
    if geometry.kind == SIGLIP.name:
        from pipeline.models.siglip import SiglipEncoder

        return SiglipEncoder(clip, tower=llava, **given)
    from pipeline.models.clip import ClipEncoder

    return ClipEncoder(clip, **given)
