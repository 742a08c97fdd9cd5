"""Saves a LLaVA's language model as a checkpoint of its own, for engines that read nothing else."""

import hashlib
from pathlib import Path

from transformers import AutoModelForCausalLM, GenerationConfig

from pipeline.models.checkpoints.adapter import Adapter, merge_adapter
from pipeline.models.checkpoints.files import SMALL_FILES, weight_files
from pipeline.models.checkpoints.layouts import LANGUAGE_KEYS
from pipeline.models.checkpoints.loading import load_config, load_part, quiet
from pipeline.models.prompts import load_table
from pipeline.support.cache import cached
from pipeline.support.turns import turn

_VERSION = 1  # version of the written files; raise it with every change
_SHARD = "1GB"


def language_only(folder: Path, adapter: Adapter | None = None) -> Path:
    """Return a cache folder with the language model of the LLaVA checkpoint in `folder`.

    An adapter is added to its weights. It is made once for each path, configuration, and sizes and times of
    the weight files, in the stored dtype. That takes as much memory and disk as the weights do, so that of a
    machine's processes the first makes it and the others wait. Raises ConfigError if weights are missing.
    """
    name = f"language-{_identity(folder)}" + (f"-{adapter.digest[:16]}" if adapter else "")
    with turn(name):
        return cached(name, lambda target: _write(folder.resolve(), adapter, target))


def _identity(folder: Path) -> str:
    files = [(str(file.resolve()), file.stat()) for file in weight_files(folder)]
    weights = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in files]
    small = [
        (name, (folder / name).read_bytes())
        for name in SMALL_FILES
        if name.endswith("config.json") and (folder / name).is_file()
    ]
    return hashlib.sha256(repr((_VERSION, str(folder.resolve()), weights, small)).encode()).hexdigest()[:16]


def _write(folder: Path, adapter: Adapter | None, target: Path) -> None:
    stored = load_table(folder).weight.dtype  # config.json may name another dtype
    config = load_config(folder).text_config
    model = load_part(
        AutoModelForCausalLM, "language model", folder, stored, config=config, key_mapping=LANGUAGE_KEYS
    )
    if adapter:
        merge_adapter(model, adapter)
    # The run's configuration decides how to decode, and that of some checkpoints cannot be saved.
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    with quiet():
        model.save_pretrained(target, max_shard_size=_SHARD, save_original_format=False)
