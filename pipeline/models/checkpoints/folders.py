"""Finds the local folders of a model's two checkpoints: from a folder, a `demo:` name or a hub id."""

import re
from pathlib import Path

from pipeline.models.checkpoints.files import WEIGHTS, read_config
from pipeline.models.checkpoints.kinds import is_original
from pipeline.models.config import Model
from pipeline.models.demo.names import resolve_checkpoint
from pipeline.models.hub import hub_folder
from pipeline.support.errors import ConfigError

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_FILES = ["*.json", "*.safetensors", "*.txt", "tokenizer.model", "spiece.model"]


def folders(model: Model) -> tuple[Path, Path | None]:
    """Return the folders of a model's LLaVA and its CLIP, both in the Hugging Face layout.

    For a LLaVA in the original layout it is a folder in the cache (original.py). The CLIP is None if the
    model names none: such a LLaVA runs with reducers that need neither texts nor the joint space.
    Raises ConfigError if one of them cannot be found or downloaded.
    """
    llava = resolve(model.path, model.allow_pickle)
    name = clip_of(model, llava)
    clip = None if name is None else resolve(name, model.allow_pickle)
    from pipeline.models.checkpoints.original import as_hugging_face
    from pipeline.models.checkpoints.presented import with_tokenizer
    from pipeline.models.checkpoints.supported import require_supported

    if clip is None or not is_original(read_config(llava)):
        return with_tokenizer(llava), clip

    require_supported(llava)  # here: the translated configuration has not all of its keys
    return as_hugging_face(llava, clip), clip


def clip_of(model: Model, llava: Path) -> str | None:
    """Return the name of a model's CLIP: `model.clip`, or the one in a LLaVA's config.json; None without one.

    Raises ConfigError for a LLaVA in the original layout without one: it has no vision tower of its own.
    """
    config = read_config(llava)
    name = model.clip or config.get("mm_vision_tower")
    if not isinstance(name, str) and (name is not None or is_original(config)):
        raise ConfigError(f"model.clip must be given: {llava} does not say on which CLIP it was built")
    return name


def resolve(path: str, allow_pickle: bool = False) -> Path:
    """Return the local folder of a checkpoint: a folder, a `demo:` name, or a hub id (downloaded if need be).

    With `allow_pickle`, pickled weights are copied to safetensors first, and the copy is returned.
    Raises ConfigError if it cannot be found or downloaded.
    """
    folder = _folder(path, HUB_FILES)
    if not allow_pickle or any((folder / name).is_file() for name in WEIGHTS):
        return folder
    from pipeline.models.checkpoints.pickled import PICKLES, as_safetensors

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
    return hub_folder(path, hub_files)
