"""Finds and reads the small files of a checkpoint, all of which must lie in its own folder."""

import json
from pathlib import Path
from typing import Any

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
_MOST_BYTES = 256 << 20  # of a small file; tokenizer.json of a large vocabulary has some 30 MB


def weight_files(folder: Path) -> list[Path]:
    """List the safetensors files of a checkpoint, sorted; ConfigError if there are none or one is missing."""
    if (folder / WHOLE).is_file():
        files = [folder / WHOLE]
    elif (folder / INDEX).is_file():
        files = [folder / name for name in shards_of(folder / INDEX)]
    else:
        raise ConfigError(
            f"{folder} holds no *.safetensors weights (model.safetensors or its shards' index); those of a "
            "pickle (pytorch_model.bin) are read with model.allow_pickle=true alone"
        )
    for file in files:
        if not file.is_file():
            raise ConfigError(f"{folder} lacks {file.name}, which its index names")
        require_inside(file)
    if files[0].name != WHOLE and not isinstance(read_json(folder / INDEX).get("metadata"), dict):
        raise ConfigError(f'{folder / INDEX} has no "metadata", which transformers needs; {{}} will do')
    return files


def shards_of(index: Path) -> list[str]:
    """Read the names of the files that an index of weights lists, sorted.

    Raises ConfigError if it is no such index, or names a file of another folder.
    """
    named = read_json(index).get("weight_map")
    names = list(named.values()) if isinstance(named, dict) else []
    if not names:
        raise ConfigError(f"{index} has no weight_map with the names of files")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or "\0" in name:
            raise ConfigError(f"{index} names {name!r}, which is no file of its own folder")
    return sorted(set(names))


def require_inside(file: Path) -> None:
    """Refuse a file that is a link out of its checkpoint's folder, or no regular file.

    The hub's cache keeps files in `blobs` beside `snapshots`, and our own cache links to weights that were
    checked before.
    """
    from pipeline.support.cache import cache_folder

    folder = file.parent.resolve()
    real = file.resolve()
    homes = [folder]
    if folder.parent.name == "snapshots":
        homes.append(folder.parent.parent / "blobs")
    is_ours = folder.is_relative_to(cache_folder().resolve())
    if not real.is_file():
        raise ConfigError(f"{file} is no regular file")
    if not is_ours and not any(real.is_relative_to(home) for home in homes):
        raise ConfigError(f"{file} is a link that leads out of its folder; copy the file there")


def read_config(folder: Path) -> Json:
    """Read a checkpoint's config.json; ConfigError if there is none."""
    if not (folder / "config.json").exists():
        raise ConfigError(f"{folder} holds no config.json")
    return read_json(folder / "config.json")


def read_json(file: Path) -> Json:
    """Read a JSON object; ConfigError if the file holds something else, or is not the checkpoint's own."""
    require_inside(file)
    size = file.stat().st_size
    if size > _MOST_BYTES:
        raise ConfigError(f"{file} has {size:,} bytes, more than the {_MOST_BYTES:,} that are read")
    return config_object(file.read_bytes(), file)


def config_object(data: bytes, file: Path) -> Json:
    """Parse the JSON object that was read from a file; ConfigError if it is something else."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        reason = "too deeply nested" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{file} is not JSON: {reason}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is not a JSON object")
    return content
