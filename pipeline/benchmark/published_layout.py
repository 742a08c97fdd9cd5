"""Copies a LLaVA checkpoint into the published layout, the only one that vLLM's own LLaVA reads whole."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from pipeline.models.checkpoints.files import read_json, weight_files
from pipeline.models.checkpoints.layouts import language_name, projector_name, tower_name

_INDEX = "*.safetensors.index.json"


def write_published(folder: Path, target: Path) -> None:
    """Write the checkpoint with the tensors' published names, file by file; other files are copied."""
    weights = weight_files(folder)
    names = {file.name for file in weights}
    for file in folder.iterdir():
        if file.match(_INDEX):
            index = read_json(file)
            files = {_published_name(name): of for name, of in index["weight_map"].items()}
            (target / file.name).write_text(json.dumps(index | {"weight_map": files}))
        elif file.is_file() and file.name not in names:
            shutil.copy(file, target / file.name)
    for file in weights:
        tensors = {_published_name(name): tensor for name, tensor in load_file(file).items()}
        save_file(tensors, target / file.name, {"format": "pt"})


def _published_name(name: str) -> str:
    if (language := language_name(name)) is not None:
        return f"language_model.{language}"
    if (tower := tower_name(name)) is not None:
        return f"vision_tower.vision_model.{tower}"
    if (projector := projector_name(name)) is not None:
        return f"multi_modal_projector.{projector}"
    return name
