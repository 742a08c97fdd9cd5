"""Test that a checkpoint that was made to hurt is one line, whatever reads it."""

import json
import math
import os
import shutil
import struct
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from pipeline.models.checkpoints.digest import weights_digest
from pipeline.models.checkpoints.files import INDEX, WHOLE
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.tensors import locate, read_header, tensors_of
from pipeline.models.prompts import TokenizerError, load_tokenizer, prompt_ids
from pipeline.support.errors import ConfigError


@pytest.fixture
def pair(random_checkpoint, tmp_path):
    shutil.copytree(random_checkpoint, tmp_path / "pair")
    return tmp_path / "pair/llava", tmp_path / "pair/clip"


def header_of(folder: Path) -> tuple[dict[str, Any], bytes]:
    data = (folder / WHOLE).read_bytes()
    stop = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:stop]), data[stop:]


def put(folder: Path, header: object, rest: bytes) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / WHOLE).write_bytes(struct.pack("<Q", len(text)) + text + rest)


def entry(**changes: object) -> Callable[[Path], None]:
    """Change the first tensor's entry."""

    def change(folder: Path) -> None:
        header, rest = header_of(folder)
        name = next(name for name in header if name != "__metadata__")
        header[name] |= changes
        put(folder, header, rest)

    return change


def whole(header: object) -> Callable[[Path], None]:
    return lambda folder: put(folder, header, b"")


def index(weight_map: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / WHOLE).unlink()
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    return change


def huge_header(folder: Path) -> None:
    with (folder / WHOLE).open("wb") as file:
        file.write(struct.pack("<Q", 40 << 30))
        file.truncate((40 << 30) + 100)


def linked(name: str, target: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return change


def moved(name: str) -> Callable[[Path], None]:
    """Put a file elsewhere, and link to it."""

    def change(folder: Path) -> None:
        (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(folder.parent / "elsewhere")

    return change


def fifo(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


WEIGHTS = {
    "negative offsets": entry(data_offsets=[100, 0]),
    "offsets beyond the file": entry(data_offsets=[10**15, 10**15 + 4]),
    "offsets that are no numbers": entry(data_offsets=[1.5, "x"]),
    "offsets of one number": entry(data_offsets=[1]),
    "no offsets": entry(data_offsets=None),
    "a shape of other bytes": entry(shape=[3, 5]),
    "a negative shape": entry(shape=[-1, 5]),
    "a shape that is no list": entry(shape="x"),
    "a dtype that is no name": entry(dtype=7),
    "tensors that overlap": entry(data_offsets=[0, 4], shape=[1], dtype="F32"),
    "bytes of no tensor": lambda folder: (folder / WHOLE).write_bytes((folder / WHOLE).read_bytes() + b"x"),
    "a list": whole([1, 2]),
    "an entry that is null": whole({"a": None}),
    "deep lists": whole(b"[" * 400_000),
    "a header of 40 GiB": huge_header,
    "an index of a folder above": index({"a": "../x.safetensors"}),
    "an index of an absolute path": index({"a": "/etc/hostname"}),
    "an index that is a list": index(["a"]),
    "an index of numbers": index({"a": 1}),
    "an index of nothing": index({}),
    "an index with NUL": index({"a": "x\0.safetensors"}),
    "weights linked elsewhere": moved(WHOLE),
    "weights linked to a device": linked(WHOLE, "/dev/zero"),
}
CONFIGS = {
    "config.json linked elsewhere": linked("config.json", "/proc/self/environ"),
    "config.json linked to a file": moved("config.json"),
    "generation_config.json linked elsewhere": moved("generation_config.json"),
    "tokenizer.json linked elsewhere": moved("tokenizer.json"),
    "a FIFO": fifo,
    "deep config": lambda folder: (folder / "config.json").write_bytes(b'{"a":' * 100_000),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_made_to_hurt_are_one_line(pair, name):
    WEIGHTS[name](pair[0])
    for read in (lambda: weights_digest(pair[0]), lambda: locate(pair[0]), lambda: check_fit(*pair)):
        with pytest.raises(ConfigError) as refused:
            read()
        assert "\n" not in str(refused.value) and len(str(refused.value)) < 500


@pytest.mark.parametrize("name", CONFIGS)
def test_small_files_made_to_hurt_are_one_line(pair, name):
    CONFIGS[name](pair[0])
    with pytest.raises(ConfigError) as refused:
        check_fit(*pair)
    assert "\n" not in str(refused.value) and "PATH=" not in str(refused.value)


VALUES = st.sampled_from([None, 0, -1, 10**12, 1.5, "x", "", [], [1], {}, {"a": 1}, True])


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.data(), value=VALUES)
def test_no_value_of_a_configuration_is_a_traceback(random_checkpoint, tmp_path_factory, key, value):
    """Whatever stands for a key, it is answered, or refused in one line."""
    folder = tmp_path_factory.mktemp("value") / "llava"
    shutil.copytree(random_checkpoint / "llava", folder)
    file = folder / "config.json"
    config = json.loads(file.read_text())
    section = (
        config[key.draw(st.sampled_from(["text_config", "vision_config"]))]
        if key.draw(st.booleans())
        else config
    )
    section[key.draw(st.sampled_from(sorted(section)))] = value
    file.write_text(json.dumps(config))
    try:
        check_fit(folder, random_checkpoint / "clip")
        weights_digest(folder)
    except ConfigError as refused:
        assert "\n" not in str(refused)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": 7}', b"[1]", b'{"added_tokens": [1]}', b"\xff"])
def test_a_tokenizer_that_is_none_is_one_line(pair, content):
    (pair[0] / "tokenizer.json").write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        check_fit(*pair)
        load_tokenizer(pair[0])
    assert "\n" not in str(refused.value)


def test_a_tokenizer_whose_pattern_never_ends_gives_up_on_the_text_alone(pair):
    file = pair[0] / "tokenizer.json"
    content = json.loads(file.read_text())
    pattern = {"type": "Split", "pattern": {"Regex": "(a|aa)+$"}, "behavior": "Isolated", "invert": False}
    file.write_text(json.dumps(content | {"pre_tokenizer": pattern}))
    tokenizer = load_tokenizer(pair[0])
    with pytest.raises(TokenizerError, match="gives up on the prompt"):
        prompt_ids(tokenizer, 7, "a" * 5000 + "b")


SIZES = st.lists(st.integers(0, 3), max_size=3)
WRONG = st.sampled_from([None, "F32", "F16", "I64", [0, 4], [4, 8], [0, 0], [1], [2, 2], -1, [4, 0], [8, 8]])


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(SIZES, max_size=4),
    st.sampled_from(["dtype", "shape", "data_offsets"]),
    WRONG,
    st.integers(-1, 1),
)
def test_headers_are_refused_as_the_library_refuses_them(tmp_path, shapes, field, value, more):
    ends = [0, *accumulate(4 * math.prod(shape) for shape in shapes)]
    content = {
        f"t{number}": {"dtype": "F32", "shape": shape, "data_offsets": list(ends[number : number + 2])}
        for number, shape in enumerate(shapes)
    }
    if content and more == 0:
        content["t0"][field] = value
    put(tmp_path, content, bytes(max(0, ends[-1] + more)))
    try:
        with safe_open(tmp_path / WHOLE, "np"):
            pass
    except SafetensorError:
        with pytest.raises(ConfigError):
            tensors_of(read_header(tmp_path / WHOLE), tmp_path / WHOLE)
    else:
        assert tensors_of(read_header(tmp_path / WHOLE), tmp_path / WHOLE).keys() == content.keys()
