"""Loads the encoder that a model's family of vision towers names."""

import importlib

import torch

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.folders import folders
from pipeline.models.checkpoints.kinds import KINDS, Kind
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
    return encoder_class(KINDS[geometry.kind]).of_model(
        llava,
        clip,
        feature_layer=geometry.feature_layer,
        normalization=preprocessor_of(model).normalization,
        needs=needs,
        device=device,
        dtype=dtype or getattr(torch, model.encode_dtype),
    )


def encoder_class(kind: Kind) -> type[Towers]:
    """Import the encoder that a family names."""
    module, _, name = kind.encoder.rpartition(".")
    encoder: type[Towers] = getattr(importlib.import_module(module), name)
    return encoder
