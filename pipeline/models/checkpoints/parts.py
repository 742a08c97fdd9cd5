"""Checks, before any weights are loaded, that a checkpoint's tensors are exactly those of a model's parts.

transformers says which tensors each part has; of the files, only the headers are read.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.models.checkpoints.tensors import FLOATS, Located, locate
from pipeline.models.checkpoints.unread import form_of, refuse_unread
from pipeline.support.errors import ConfigError, first_line

_JOINED = ".experts."  # stored expert by expert, and joined while loading: only the loader can compare them


@dataclass(frozen=True)
class Part:
    """Describes a part of a model.

    Args:
        name: for messages.
        folder: the checkpoint that holds it.
        module: the part without weights, on the meta device.
        short: a tensor's name in the checkpoint -> its name in the module, or None.
    """

    name: str
    folder: Path
    module: nn.Module
    short: Callable[[str], str | None]


def make_part(
    name: str, folder: Path, make: Callable[[], nn.Module], short: Callable[[str], str | None]
) -> Part:
    """Make a part without weights; ConfigError if the checkpoint's configuration describes none."""
    try:
        with torch.device("meta"):
            module = make()
    except Exception as error:  # noqa: BLE001 - a configuration can make transformers and torch raise anything
        raise ConfigError(
            f"{folder}: config.json describes no {name} that can be made: {first_line(error)}"
        ) from None
    return Part(name, folder, module, short)


def require_whole(parts: Sequence[Part]) -> None:
    """Require that no part lacks a tensor, and that each tensor is read by a part or known as harmless.

    Raises:
        ConfigError: one line that names the folder and the first tensor.
    """
    for folder in dict.fromkeys(part.folder for part in parts):
        tensors = locate(folder)
        there = [part for part in parts if part.folder == folder]
        for part in there:
            _require_part(part, tensors)
        unread = [name for name in tensors if all(part.short(name) is None for part in there)]
        refuse_unread(folder, unread, "part of the model")


def _require_part(part: Part, tensors: dict[str, Located]) -> None:
    names = _names_in(part, tensors)
    expected = {name: tuple(tensor.shape) for name, tensor in part.module.state_dict().items()}
    is_joined = any(_JOINED in name for name in expected)
    for name in names if is_joined else expected.keys() & names.keys():
        where = tensors[names[name]]
        if where.dtype not in FLOATS:
            raise ConfigError(
                f"{part.folder}: {names[name]} is stored as {where.dtype}, and quantised weights cannot be "
                f"read, only {', '.join(FLOATS)}"
            )
    if is_joined:
        others = [names[name] for name in names.keys() - expected.keys() if form_of(name)]
        refuse_unread(part.folder, others, part.name)
        _require_experts(part, {name: tensors[names[name]].shape for name in names}, expected)
        return
    refuse_unread(part.folder, [names[name] for name in names.keys() - expected.keys()], part.name)
    tied = getattr(part.module, "all_tied_weights_keys", None) or {}
    wrong = [name for name in expected if name not in names and name not in tied]
    wrong += [
        name for name, shape in expected.items() if name in names and tensors[names[name]].shape != shape
    ]
    refuse_gaps(part.folder, part.name, wrong)


def _names_in(part: Part, tensors: Iterable[str]) -> dict[str, str]:
    """Find a part's tensors: name in the part -> name in the checkpoint, of which there must be one."""
    names: dict[str, str] = {}
    for name in tensors:
        short = part.short(name)
        if short is not None and names.setdefault(short, name) != name:
            raise ConfigError(f"{part.folder}: {names[short]} and {name} are one tensor of the {part.name}")
    return names


def _require_experts(
    part: Part, shapes: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]
) -> None:
    """Require that the experts of a layer have equal tensors, and are as many as the part joins."""
    number = max(shape[0] for name, shape in expected.items() if _JOINED in name)
    found: dict[tuple[str, str], dict[int, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        before, joined, after = name.partition(_JOINED)
        index, _, rest = after.partition(".")
        if joined and index.isdecimal():
            found.setdefault((before, rest), {})[int(index)] = shape
    wrong = [
        f"{before}{_JOINED}*.{rest}"
        for (before, rest), experts in found.items()
        if experts.keys() != set(range(number)) or len(set(experts.values())) != 1
    ]
    refuse_gaps(part.folder, part.name, wrong)


def refuse_gaps(folder: Path, part: str, names: Sequence[object]) -> None:
    """Raise ConfigError if weights are missing or misshapen."""
    if names:
        listed = ", ".join(sorted(map(str, names))[:3])
        raise ConfigError(
            f"{folder}: weights of the {part} are missing or misshapen: {listed} ({len(names)})"
        )
