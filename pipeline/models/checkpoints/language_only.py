"""The language model of a LLaVA checkpoint as a checkpoint of its own, for engines that read nothing else."""

import hashlib
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from pipeline.models.checkpoints.fit import SMALL_FILES
from pipeline.models.checkpoints.layouts import LANGUAGE_KEYS
from pipeline.models.checkpoints.loading import load_part, quiet
from pipeline.models.checkpoints.tensors import weight_files
from pipeline.models.prompts import load_table
from pipeline.support.cache import cache_folder, made_once

_VERSION = 1  # of what is written; raise it with every change
_SHARD = "1GB"


def language_only(folder: Path) -> Path:
    """The folder, in the cache, of the language model of the LLaVA checkpoint in `folder`.

    Made once, in the dtype in which the weights are stored; that takes as much memory as they do, and as much
    disk. A checkpoint with another path, other sizes or times of its weight files or another configuration is
    another one. Two processes may do this at once: the folder is there whole, or not at all.
    Raises ConfigError if weights are missing.
    """
    return made_once(
        cache_folder() / f"language-{_identity(folder)}", lambda made: _write(folder.resolve(), made)
    )


def _identity(folder: Path) -> str:
    files = [(str(file.resolve()), file.stat()) for file in weight_files(folder)]
    told = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    small = [
        (name, (folder / name).read_bytes())
        for name in SMALL_FILES
        if name.endswith("config.json") and (folder / name).is_file()
    ]
    return hashlib.sha256(repr((_VERSION, str(folder.resolve()), told, small)).encode()).hexdigest()[:16]


def _write(folder: Path, made: Path) -> None:
    stored = load_table(folder).weight.dtype  # what config.json says may be another
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False).text_config
    model = load_part(
        AutoModelForCausalLM, "language model", folder, stored, config=config, key_mapping=LANGUAGE_KEYS
    )
    # How to decode is the run's configuration; that of some checkpoints is one that cannot be saved.
    model.generation_config = GenerationConfig()
    with quiet():
        model.save_pretrained(made, max_shard_size=_SHARD, save_original_format=False)
