"""Loads the encoder that a model's family of vision towers names."""

import importlib
from typing import Any

import torch

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.folders import folders
from pipeline.models.checkpoints.kinds import KINDS, Kind
from pipeline.models.checkpoints.vision_tower import tower_folder
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
    """Load both towers of a model, in `dtype` or else in the model's `encode_dtype`.

    `needs`: the fields of VisualTokens that will be read. Raises ConfigError if weights are missing.
    """
    llava, clip = folders(model)
    encoder: Towers = encoder_class(KINDS[geometry.kind])(
        tower_folder(llava, clip),
        clip,
        feature_layer=geometry.feature_layer,
        normalization=preprocessor_of(model).normalization,
        needs=needs,
        device=device,
        dtype=dtype or getattr(torch, model.encode_dtype),
    )
    return encoder


# Any: each family's class has a constructor of its own, with the arguments above.
def encoder_class(kind: Kind) -> Any:
    """Import the encoder that a family names, a subclass of Towers."""
    module, _, name = kind.encoder.rpartition(".")
    return getattr(importlib.import_module(module), name)
