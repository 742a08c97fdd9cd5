"""Loads part of a checkpoint with transformers, and refuses missing weights instead of inventing them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig
from transformers.utils import logging

from pipeline.models.checkpoints.files import weight_files
from pipeline.models.checkpoints.parts import Part, refuse_gaps
from pipeline.support.errors import ConfigError, first_line


# `kind` is a model class of transformers or one of its Auto classes, which share no type.
def load_part(kind: Any, part: str, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """Run `kind.from_pretrained(folder, **options)` for inference; the folder's other weights are not read.

    No pickle is read, and no code of the checkpoint is run.

    Raises ConfigError if weights of the part are missing or of another shape.
    """
    with quiet():
        model, report = kind.from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    refuse_gaps(folder, part, [*report["missing_keys"], *report["mismatched_keys"]])
    return model.eval().requires_grad_(False)


def fill(part: Part, dtype: torch.dtype) -> nn.Module:
    """Fill a part's module with its tensors; no others are read. Raises ConfigError as `load_part`."""
    weights = {}
    for file in weight_files(part.folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if (short_name := part.short(name)) is not None:
                    weights[short_name] = tensors.get_tensor(name).to(dtype)
    expected = part.module.state_dict()
    wrong = [name for name in expected if name in weights and weights[name].shape != expected[name].shape]
    refuse_gaps(part.folder, part.name, [*(set(expected) - set(weights)), *wrong])
    part.module.load_state_dict({name: weights[name] for name in expected}, assign=True)
    return part.module.eval().requires_grad_(False)


# Any: the class of the configuration depends on the checkpoint.
def load_config(folder: Path) -> Any:
    """Load a checkpoint's config.json as transformers reads it, without the code that it may name.

    A LLaVA's language model shares its embeddings with its output layer if either configuration says so, as
    in LlavaConfig (transformers 5.23). Raises ConfigError if transformers cannot read it.
    """
    try:
        config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # noqa: BLE001 - its values can make transformers raise anything
        reason = first_line(error).partition(" Should contain one of")[0]  # hundreds of names follow
        raise ConfigError(f"{folder}: transformers cannot read config.json: {reason}") from None
    if hasattr(config, "text_config") and getattr(config, "tie_word_embeddings", False):
        config.text_config.tie_word_embeddings = True
    return config


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and the library's report of weights that belong to other parts."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
