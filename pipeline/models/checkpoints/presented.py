"""Presents a checkpoint in a cache folder with another config.json or tokenizer; the weights are links."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.models.checkpoints.files import (
    INDEX,
    SMALL_FILES,
    Json,
    read_config,
    read_json,
    weight_files,
)
from pipeline.models.checkpoints.llama_tokenizer import TOKENIZER_FILES, write_tokenizer
from pipeline.support.cache import cached
from pipeline.support.errors import ConfigError

_VERSION = 1  # version of the written files; raise it with every change


def present(folder: Path, config: Json, label: str, names: Sequence[str], tokenizer: Json | None) -> Path:
    """Return a cache folder with a checkpoint's files, this config.json and a tokenizer.json; made once.

    Args:
        folder: the checkpoint, with a tokenizer that `write_tokenizer` reads.
        config: in the Hugging Face layout.
        label: begins the cache folder's name.
        names: of the small files that are copied.
        tokenizer: tokenizer_config.json, if it counts for a SentencePiece model.

    Raises ConfigError if the checkpoint has no weights, or no tokenizer that can be read.
    """
    files = weight_files(folder)
    copied = [folder / name for name in (INDEX, *names, *TOKENIZER_FILES)]
    small = [(file.name, file.read_bytes()) for file in copied if file.is_file()]
    weights = [(str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    identity = hashlib.sha256(repr((_VERSION, config, weights, small)).encode()).hexdigest()[:16]

    def make(target: Path) -> None:
        (target / "config.json").write_text(json.dumps(config, indent=1))
        for name, content in small:
            if name not in TOKENIZER_FILES:
                (target / name).write_bytes(content)
        for file in files:
            (target / file.name).symlink_to(file.absolute())
        write_tokenizer(folder, target, config["text_config"], settings=tokenizer)

    return cached(f"{label}-{identity}", make)


def with_tokenizer(folder: Path) -> Path:
    """Return a LLaVA's folder, or one with a tokenizer.json if it has a SentencePiece model alone.

    transformers 5.23 makes other ids of such a model than it was trained with: see llama_tokenizer.py.
    """
    if (folder / "tokenizer.json").exists() or not (folder / "tokenizer.model").exists():
        return folder
    config = read_config(folder)
    if not isinstance(config.get("text_config"), dict):
        return folder  # no LLaVA, which is told elsewhere
    names = [name for name in SMALL_FILES if name not in ("config.json", *TOKENIZER_FILES)]
    file = folder / "tokenizer_config.json"
    try:
        return present(folder, config, "tokenizer", names, read_json(file) if file.is_file() else {})
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise ConfigError(f"{folder}: tokenizer.model cannot be read with its settings: {error!r}") from None
