"""Reads a checkpoint's safetensors files without torch: headers, and one small tensor at a time.

The format: 8 bytes with the length of a JSON header, the header, and the tensors' bytes
(https://github.com/huggingface/safetensors, "Format").
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from pipeline.models.checkpoints.files import Json, config_object, weight_files
from pipeline.support.errors import ConfigError

# dtype in a safetensors header -> (how its bytes are read, relative rounding)
FLOATS = {"F32": ("<f4", 2.0**-23), "F16": ("<f2", 2.0**-10), "BF16": ("<u2", 2.0**-7)}
_MOST_HEADER_BYTES = 100_000_000  # the library's own limit
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}


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
        return math.prod(self.shape)


def locate(folder: Path) -> dict[str, Located]:
    """Find every tensor of a checkpoint by its name.

    Raises:
        ConfigError: a file is no safetensors file, or two files hold a tensor of one name.
    """
    located: dict[str, Located] = {}
    for file in weight_files(folder):
        header = read_header(file)
        for name, where in tensors_of(header, file).items():
            if name in located:
                raise ConfigError(f"{folder}: {located[name].file.name} and {file.name} both hold {name}")
            located[name] = where
    return located


def read_header(file: Path) -> bytes:
    """Read the JSON header of a safetensors file, unparsed."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= min(size - 8, _MOST_HEADER_BYTES):
            raise ConfigError(f"{file} is not a safetensors file, or was cut short")
        return stream.read(length)


def tensors_of(header: bytes, file: Path) -> dict[str, Located]:
    """Parse a header into the places of its tensors, sorted by name; ConfigError where they cannot be.

    As the safetensors library asks, they follow each other without a gap or an overlap, to the file's end.
    """
    first, stop = 8 + len(header), file.stat().st_size
    entries = config_object(header, file)
    tensors = {
        name: _located(file, first, stop, name, entry)
        for name, entry in sorted(entries.items())
        if name != "__metadata__"
    }
    end = first
    for start, size, name in sorted((where.start, where.size, name) for name, where in tensors.items()):
        if start != end:
            raise ConfigError(f"{file} is not a safetensors file: {name} lies over another tensor or a gap")
        end = start + size
    if end != stop:
        raise ConfigError(f"{file} is not a safetensors file: {stop - end:,} bytes belong to no tensor")
    return tensors


def _located(file: Path, first: int, stop: int, name: str, entry: Json) -> Located:
    """Make the place of one tensor, which must lie within the file and have the bytes of its shape."""
    wrong = ConfigError(f"{file} is not a safetensors file: its header has no place for {name}")
    if not isinstance(entry, dict):
        raise wrong
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise wrong
    begin, end = offsets
    if not 0 <= begin <= end <= stop - first:
        raise wrong
    if dtype in _BYTES and _BYTES[dtype] * math.prod(shape) != end - begin:
        raise wrong
    return Located(file, first + begin, end - begin, dtype, tuple(shape))


def _are_sizes(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


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
