"""Converts pickled weights (`pytorch_model.bin`) to safetensors, if the user allows it.

Loading a pickle can run any code. Here only tensors are loaded from one (`torch.load(weights_only=True)`),
once: everything else reads a copy as safetensors. Making it takes the memory of one shard.
"""

import hashlib
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.models.checkpoints.files import SMALL_FILES, require_inside, shards_of
from pipeline.models.checkpoints.sharded import ShardWriter
from pipeline.support.cache import cached
from pipeline.support.errors import ConfigError, first_line

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")


def as_safetensors(folder: Path) -> Path:
    """Return a copy of the checkpoint in the cache, made once, with its weights as safetensors.

    Raises ConfigError if a file of weights is missing, or holds anything but tensors.
    """
    files = _files(folder)
    small = [folder / name for name in SMALL_FILES if (folder / name).is_file()]
    identity = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in (*files, *small)]
    digest = hashlib.sha256(repr(identity).encode()).hexdigest()[:16]

    def make(target: Path) -> None:
        for file in small:
            (target / file.name).write_bytes(file.read_bytes())
        writer = ShardWriter(target)
        for file in files:
            for name, tensor in _tensors(file).items():
                writer.add(name, tensor.clone())  # safetensors refuses tensors that share memory
        writer.close()

    return cached(f"safetensors-{digest}", make)


def _files(folder: Path) -> list[Path]:
    index = folder / PICKLES[1]
    names = [PICKLES[0]]
    if not (folder / PICKLES[0]).is_file():
        names = shards_of(index)
    for name in names:
        if not (folder / name).is_file():
            raise ConfigError(f"{folder} lacks {name}, which its index names")
        require_inside(folder / name)
    return [folder / name for name in names]


def _tensors(file: Path) -> "dict[str, Tensor]":
    """Load one file's tensors by name, memory-mapped where the file's format allows it."""
    import pickle  # for the name of its error alone

    import torch

    try:
        mapped = zipfile.is_zipfile(file)  # torch before 1.6 wrote another format
        loaded: object = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(f"{file} cannot be read as weights alone: {first_line(error)[:200]}") from None
    if not isinstance(loaded, dict) or not all(isinstance(x, torch.Tensor) for x in loaded.values()):
        raise ConfigError(f"{file} holds something other than named tensors")
    return {str(name): tensor for name, tensor in loaded.items()}
