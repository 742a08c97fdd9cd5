"""Find checkpoints, tell one from another, and refuse those that do not belong together.

Reads JSON and the headers of safetensors files only: no torch, no weights, a few milliseconds.

Both layouts of LLaVA's weights are known: the published one (`vision_tower.vision_model...`,
`language_model.model...`) and that of transformers 5 (`model.vision_tower...`, `lm_head.weight`).
"""

import hashlib
import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.demo.names import resolve_checkpoint
from pipeline.errors import ConfigError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "tokenizer.model"]
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
VISION_TOWER = re.compile(r"^(?:model\.)?(?:vision_tower\.(?:vision_model\.)?|vision_model\.)")
PROJECTOR = re.compile(r"^(?:model\.)?multi_modal_projector\.")

# What a config.json leaves out has the library's default.
CLIP_VISION = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "image_size": 224,
    "patch_size": 32,
}
LLAVA_VISION = {  # of a LLaVA without any vision_config
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
LLAMA = {"hidden_size": 4096, "max_position_embeddings": 2048}

# dtype in a safetensors header -> (how its bytes are read, relative rounding)
FLOATS = {"F32": ("<f4", 2.0**-23), "F16": ("<f2", 2.0**-10), "BF16": ("<u2", 2.0**-7)}


@dataclass(frozen=True)
class Geometry:
    """Shapes of a LLaVA and its CLIP that fit each other."""

    image_size: int  # S, pixels a side
    patch_size: int  # pixels a side
    num_patches: int  # N
    vision_width: int  # D
    joint_width: int  # P, of CLIP's image-text space
    language_width: int  # H
    feature_layer: int  # vision layers to run to get what LLaVA projects
    max_positions: int  # of the language model


def resolve(path: str, allow_pickle: bool = False) -> Path:
    """The local folder of a checkpoint: a folder, a `demo:` name, or a hub id (downloaded if need be).

    With `allow_pickle` it may be a copy, whose weights are safetensors, of one whose weights are a pickle.
    Raises ConfigError if there is nothing to be had under that name.
    """
    folder = _folder(path, HUB_FILES)
    if not allow_pickle or any((folder / name).is_file() for name in WEIGHTS):
        return folder
    from pipeline.models.pickled import PICKLES, as_safetensors

    if HUB_ID.fullmatch(path) and not Path(path).expanduser().is_dir():
        folder = _folder(path, [*HUB_FILES, "pytorch_model*.bin"])
    return as_safetensors(folder) if any((folder / name).is_file() for name in PICKLES) else folder


def _folder(path: str, hub_files: list[str]) -> Path:
    if path.startswith("demo:"):
        return resolve_checkpoint(path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    if not HUB_ID.fullmatch(path) or path.startswith("."):
        raise ConfigError(f"model: {path!r} is neither a folder nor a hub id (owner/name)")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=hub_files))
    except (OSError, ValueError) as error:  # the hub's exceptions all derive from these two
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"model: no folder {path!r}, and the hub does not give it: {reason}") from error


def weights_digest(folder: Path) -> str:
    """A sha256 that changes with the checkpoint, without reading its gigabytes.

    Covers name, size and header of each weight file, the first 64 bytes of each tensor (or a fine-tuned
    model would pass for its base), and the whole of the configuration and tokenizer files.
    Raises ConfigError if there are no safetensors files.
    """
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(struct.pack("<Q", len(part)) + part)

    for file in weight_files(folder):
        header = _read_header(file)
        add(file.name.encode(), str(file.stat().st_size).encode(), header)
        with file.open("rb") as stream:
            for _, entry in _tensors(header):
                first, stop = entry["data_offsets"]
                stream.seek(8 + len(header) + first)
                add(stream.read(min(64, stop - first)))
    for name in SMALL_FILES:
        if (folder / name).is_file():
            add(name.encode(), (folder / name).read_bytes())
    return digest.hexdigest()


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of the checkpoint, sorted; ConfigError if there are none or one is missing."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    elif index.is_file():
        files = [folder / name for name in sorted(set(_read_json(index)["weight_map"].values()))]
    else:
        raise ConfigError(
            f"{folder} holds no *.safetensors weights (model.safetensors or its shards' index); those of a "
            "pickle (pytorch_model.bin) are read with model.allow_pickle=true alone"
        )
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{folder} lacks {file.name}, which its index names")
    return files


def check_fit(llava: Path, clip: Path) -> Geometry:
    """The geometry of a LLaVA and the CLIP whose vision tower it has.

    Raises ConfigError, naming what is wrong, if either is not what it should be, if they have different
    vision towers, or if the LLaVA reads its tower in a way that is not supported.
    """
    llava_config, clip_config = _read_config(llava), _read_config(clip)
    _check_kinds(llava, llava_config, clip, clip_config)
    vision = CLIP_VISION | llava_config["vision_config"] if "vision_config" in llava_config else LLAVA_VISION
    clip_vision = CLIP_VISION | clip_config.get("vision_config", {})
    for key in CLIP_VISION:
        if vision[key] != clip_vision[key]:
            raise ConfigError(
                f"vision towers differ: {key} is {vision[key]} in {llava} and {clip_vision[key]} in {clip}"
            )
    feature_layer = _feature_layer(llava, llava_config, vision["num_hidden_layers"])
    _check_weights(llava, clip, feature_layer)
    language = LLAMA | llava_config.get("text_config", {})
    return Geometry(
        image_size=vision["image_size"],
        patch_size=vision["patch_size"],
        num_patches=(vision["image_size"] // vision["patch_size"]) ** 2,
        vision_width=vision["hidden_size"],
        joint_width=clip_config.get("projection_dim", 512),
        language_width=language["hidden_size"],
        feature_layer=feature_layer,
        max_positions=language["max_position_embeddings"],
    )


def _check_kinds(llava: Path, llava_config: dict[str, Any], clip: Path, clip_config: dict[str, Any]) -> None:
    if "mm_vision_tower" in llava_config:
        raise ConfigError(f"{llava} is in the original LLaVA layout, not in that of Hugging Face")
    for folder, config, kind in ((llava, llava_config, "llava"), (clip, clip_config, "clip")):
        if config.get("model_type") != kind:
            raise ConfigError(
                f"{folder} is no {kind} checkpoint: its model_type is {config.get('model_type')!r}"
            )
    if not any((llava / name).is_file() for name in ("tokenizer.json", "tokenizer.model")):
        raise ConfigError(f"{llava} lacks a tokenizer (tokenizer.json or tokenizer.model)")
    if not any((clip / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ConfigError(f"{clip} lacks a tokenizer (tokenizer.json, or vocab.json and merges.txt)")


def _feature_layer(folder: Path, config: dict[str, Any], num_layers: int) -> int:
    strategy = config.get("vision_feature_select_strategy", "default")
    if strategy != "default":
        raise ConfigError(
            f"{folder}: vision_feature_select_strategy {strategy!r} is not supported, only 'default'"
        )
    layer = config.get("vision_feature_layer", -2)
    if not isinstance(layer, int):
        raise ConfigError(f"{folder}: vision_feature_layer {layer} is not supported, only one layer")
    resolved = layer if layer >= 0 else num_layers + 1 + layer  # hidden_states[0] is the embeddings
    if not 1 <= resolved <= num_layers:
        raise ConfigError(f"{folder}: vision_feature_layer {layer} is not one of {num_layers} layers")
    return resolved


def _check_weights(llava: Path, clip: Path, feature_layer: int) -> None:
    """Compare two tiny tensors of the towers: one at their start, one in the last layer that is read."""
    llava_tensors, clip_tensors = _locate(llava), _locate(clip)
    if not any(PROJECTOR.match(name) for name in llava_tensors):
        raise ConfigError(f"{llava} holds no projector weights (multi_modal_projector)")
    llava_tower, clip_tower = (
        {VISION_TOWER.sub("", name): where for name, where in tensors.items() if VISION_TOWER.match(name)}
        for tensors in (llava_tensors, clip_tensors)
    )
    for name in ("embeddings.class_embedding", f"encoder.layers.{feature_layer - 1}.mlp.fc2.bias"):
        for folder, tower in ((llava, llava_tower), (clip, clip_tower)):
            if name not in tower:
                raise ConfigError(f"{folder} holds no vision tower weights ({name} is missing)")
        ours, our_rounding = _read_tensor(*llava_tower[name])
        theirs, their_rounding = _read_tensor(*clip_tower[name])
        allowed = max(our_rounding, their_rounding) * np.abs(theirs) + 1e-7  # float16's smallest steps
        if ours.shape != theirs.shape or (np.abs(ours - theirs) > allowed).any():
            raise ConfigError(f"the vision tower in {llava} is not that of {clip}: {name} differs")


def _read_config(folder: Path) -> dict[str, Any]:
    if not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} holds no config.json")
    return _read_json(folder / "config.json")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is not a JSON object")
    return content


def _read_header(file: Path) -> bytes:
    """The JSON header of a safetensors file, as it is written."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ConfigError(f"{file} is not a safetensors file, or was cut short")
        return stream.read(length)


def _tensors(header: bytes) -> list[tuple[str, dict[str, Any]]]:
    return sorted((name, entry) for name, entry in json.loads(header).items() if name != "__metadata__")


def _locate(folder: Path) -> dict[str, tuple[Path, int, dict[str, Any]]]:
    """Tensor name -> file, where its data starts in the file, its entry in the header."""
    found = {}
    for file in weight_files(folder):
        header = _read_header(file)
        for name, entry in _tensors(header):
            found[name] = (file, 8 + len(header) + entry["data_offsets"][0], entry)
    return found


def _read_tensor(file: Path, start: int, entry: dict[str, Any]) -> tuple[np.ndarray, float]:
    """A tensor as float32, and the relative rounding of the type it is stored in."""
    if entry["dtype"] not in FLOATS:
        raise ConfigError(f"{file}: dtype {entry['dtype']} is not supported, only {', '.join(FLOATS)}")
    kind, rounding = FLOATS[entry["dtype"]]
    first, stop = entry["data_offsets"]
    with file.open("rb") as stream:
        stream.seek(start)
        values = np.frombuffer(stream.read(stop - first), kind)
    if entry["dtype"] == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32).reshape(entry["shape"]), rounding
