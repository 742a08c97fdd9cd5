"""Reads a checkpoint's safetensors files without torch: headers, and one small tensor at a time."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.support.errors import ConfigError

Json = dict[str, Any]  # a JSON object of a checkpoint: its keys vary between versions and families
WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
WEIGHTS = (WHOLE, INDEX)
# The configuration and tokenizer files of a checkpoint.
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)

# dtype in a safetensors header -> (how its bytes are read, relative rounding)
FLOATS = {"F32": ("<f4", 2.0**-23), "F16": ("<f2", 2.0**-10), "BF16": ("<u2", 2.0**-7)}


@dataclass(frozen=True)
class Located:
    """Holds a tensor's place in its file; `start` and `size` in bytes, `dtype` as the header names it."""

    file: Path
    start: int
    size: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of the tensor's elements."""
        return int(np.prod(self.shape, dtype=np.int64))


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint, sorted; ConfigError if there are none or one is missing."""
    if (folder / WHOLE).is_file():
        files = [folder / WHOLE]
    elif (folder / INDEX).is_file():
        files = [folder / name for name in sorted(set(read_json(folder / INDEX)["weight_map"].values()))]
    else:
        raise ConfigError(
            f"{folder} holds no *.safetensors weights (model.safetensors or its shards' index); those of a "
            "pickle (pytorch_model.bin) are read with model.allow_pickle=true alone"
        )
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{folder} lacks {file.name}, which its index names")
    return files


def locate(folder: Path) -> dict[str, Located]:
    """Find every tensor of a checkpoint by its name."""
    located = {}
    for file in weight_files(folder):
        header = read_header(file)
        for name, entry in tensors_of(header):
            first, stop = entry["data_offsets"]
            start = 8 + len(header) + first
            located[name] = Located(file, start, stop - first, entry["dtype"], tuple(entry["shape"]))
    return located


def read_header(file: Path) -> bytes:
    """Read the JSON header of a safetensors file, unparsed."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ConfigError(f"{file} is not a safetensors file, or was cut short")
        return stream.read(length)


def tensors_of(header: bytes) -> list[tuple[str, Json]]:
    """Parse a header into names and entries, sorted."""
    return sorted((name, entry) for name, entry in json.loads(header).items() if name != "__metadata__")


def read_tensor(where: Located) -> tuple[NDArray[np.float32], float]:
    """Read a tensor as float32; also returns the relative rounding of its stored type."""
    if where.dtype not in FLOATS:
        raise ConfigError(f"{where.file}: dtype {where.dtype} is not supported, only {', '.join(FLOATS)}")
    kind, rounding = FLOATS[where.dtype]
    with where.file.open("rb") as stream:
        stream.seek(where.start)
        values = np.frombuffer(stream.read(where.size), kind)
    if where.dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32).reshape(where.shape), rounding


def read_config(folder: Path) -> Json:
    """Read a checkpoint's config.json; ConfigError if there is none."""
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no config.json")
    return read_json(folder / "config.json")


def read_json(file: Path) -> Json:
    """Read a JSON object; ConfigError if the file holds something else."""
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is not a JSON object")
    return content
