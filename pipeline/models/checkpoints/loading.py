"""Loads part of a checkpoint with transformers, and refuses missing weights instead of inventing them."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import logging

from pipeline.models.checkpoints.tensors import weight_files
from pipeline.support.errors import ConfigError

Module = TypeVar("Module", bound=nn.Module)


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
    refuse_gaps(folder, part, report["missing_keys"], report["mismatched_keys"])
    return model.eval().requires_grad_(False)


def fill(
    module: Module, part: str, folder: Path, short: Callable[[str], str | None], dtype: torch.dtype
) -> Module:
    """Fill a module that was made on the meta device with tensors of a checkpoint; no others are read.

    `short` maps a tensor's name to its name in the module, or to None. Raises ConfigError as `load_part`.
    """
    weights = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if (short_name := short(name)) is not None:
                    weights[short_name] = tensors.get_tensor(name).to(dtype)
    expected = module.state_dict()
    mismatched = {
        name for name in expected if name in weights and weights[name].shape != expected[name].shape
    }
    refuse_gaps(folder, part, set(expected) - set(weights), mismatched)
    module.load_state_dict({name: weights[name] for name in expected}, assign=True)
    return module.eval().requires_grad_(False)


def refuse_gaps(folder: Path, part: str, missing: Iterable[object], mismatched: Iterable[object]) -> None:
    """Raise ConfigError if weights are missing or mismatched."""
    names = sorted(map(str, [*missing, *mismatched]))
    if names:
        listed = ", ".join(names[:3])
        raise ConfigError(
            f"{folder}: weights of the {part} are missing or misshapen: {listed} ({len(names)})"
        )


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
