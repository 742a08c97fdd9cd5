"""Copies a LLaVA checkpoint into the published layout, the only one that vLLM's own LLaVA reads whole."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from pipeline.models.checkpoints.files import read_json, weight_files
from pipeline.models.checkpoints.layouts import published_name

_INDEX = "*.safetensors.index.json"


def write_published(folder: Path, target: Path) -> None:
    """Write the checkpoint with the tensors' published names, file by file; other files are copied."""
    weights = weight_files(folder)
    names = {file.name for file in weights}
    for file in folder.iterdir():
        if file.match(_INDEX):
            index = read_json(file)
            files = {published_name(name) or name: of for name, of in index["weight_map"].items()}
            (target / file.name).write_text(json.dumps(index | {"weight_map": files}))
        elif file.is_file() and file.name not in names:
            shutil.copy(file, target / file.name)
    for file in weights:
        tensors = {published_name(name) or name: tensor for name, tensor in load_file(file).items()}
        save_file(tensors, target / file.name, {"format": "pt"})
