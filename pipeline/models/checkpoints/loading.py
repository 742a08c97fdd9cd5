"""Load part of a checkpoint with transformers: quietly, and never with invented weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.utils import logging

from pipeline.models.checkpoints.tensors import weight_files
from pipeline.support.errors import ConfigError


def load_part(kind: Any, part: str, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """`kind.from_pretrained(folder)`, ready for inference; what else the folder holds is not read.

    Neither is a pickle, nor is code that the checkpoint brings along run.

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
    module: nn.Module, part: str, folder: Path, short: Callable[[str], str | None], dtype: torch.dtype
) -> Any:
    """A module made on the meta device, with its tensors from a checkpoint; nothing else is read.

    `short` gives a tensor's name in the module, or None. Raises ConfigError as `load_part`.
    """
    weights = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a dict
                if (found := short(name)) is not None:
                    weights[found] = tensors.get_tensor(name).to(dtype)
    expected = module.state_dict()
    mismatched = {
        name for name in expected if name in weights and weights[name].shape != expected[name].shape
    }
    refuse_gaps(folder, part, set(expected) - set(weights), mismatched)
    module.load_state_dict({name: weights[name] for name in expected}, assign=True)
    return module.eval().requires_grad_(False)


def refuse_gaps(folder: Path, part: str, missing: Any, mismatched: Any) -> None:
    """Raise ConfigError if there are any."""
    names = sorted(map(str, [*missing, *mismatched]))
    if names:
        listed = ", ".join(names[:3])
        raise ConfigError(
            f"{folder}: weights of the {part} are missing or misshapen: {listed} ({len(names)})"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and without the report of all the weights that another part will read."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
