"""Finds the local folders of a model's two checkpoints: from a folder, a `demo:` name or a hub id."""

import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from pipeline.models.checkpoints.digest import weights_digest
from pipeline.models.checkpoints.files import WEIGHTS, read_config
from pipeline.models.checkpoints.kinds import is_original
from pipeline.models.config import Model, PinnedModel
from pipeline.models.demo.names import resolve_checkpoint
from pipeline.models.hub import HubId, commit_of, hub_folder, hub_id
from pipeline.support.errors import ConfigError

SMALL_HUB_FILES = ["*.json", "*.txt", "tokenizer.model", "spiece.model"]
HUB_FILES = [*SMALL_HUB_FILES, "*.safetensors"]


def folders(model: Model) -> tuple[Path, Path | None]:
    """Return the folders of a model's LLaVA and its CLIP, both in the Hugging Face layout.

    For a LLaVA in the original layout it is a folder in the cache (original.py). The CLIP is None if the
    model names none: such a LLaVA runs with reducers that need neither texts nor the joint space.
    Raises ConfigError if one of them cannot be found or downloaded, or is not what a PinnedModel says.
    """
    llava, clip = _folders(model)
    if isinstance(model, PinnedModel):
        _require_weights(llava, model.weights, "model.path")
        if clip is not None and model.clip_weights is not None:
            _require_weights(clip, model.clip_weights, "model.clip")
    return llava, clip


def _folders(model: Model) -> tuple[Path, Path | None]:
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

    if hub_id(path) is not None:
        folder = _folder(path, [*HUB_FILES, "pytorch_model*.bin"])
    return as_safetensors(folder) if any((folder / name).is_file() for name in PICKLES) else folder


def resolve_small(path: str) -> Path:
    """Return the local folder of a checkpoint's small files; those of a hub id come without its weights."""
    return _folder(path, SMALL_HUB_FILES)


def pinned(model: Model, earlier: Mapping[str, object], commits: dict[HubId, str]) -> Model:
    """Return the same model with a commit in each of its hub ids: `owner/name@commit`.

    Args:
        earlier: `model` of the output's run.json, whose commit holds for an id without a revision.
        commits: of ids that have been pinned before; those of this model are added.
    """
    path = _pinned(model.path, earlier.get("path"), commits)
    clip = clip_of(model, resolve_small(path))
    named = None if clip is None else _pinned(clip, earlier.get("clip"), commits)
    return replace(model, path=path, clip=model.clip if named == clip else named)


def _pinned(path: str, earlier: object, commits: dict[HubId, str]) -> str:
    """Put the commit into a hub id; other paths stay as they are."""
    repository = hub_id(path)
    if repository is None:
        return path
    before = hub_id(earlier) if isinstance(earlier, str) else None
    if repository.revision is None and before and before.name == repository.name and before.is_commit:
        commits.setdefault(repository, str(before.revision))
        return str(before)
    if repository not in commits:
        commits[repository] = commit_of(repository)
    return str(HubId(repository.name, commits[repository]))


def _require_weights(folder: Path, digest: str, key: str) -> None:
    found = weights_digest(folder)
    if found != digest:
        raise ConfigError(
            f"{key}: {folder} on {platform.node()} holds other weights or settings ({found[:8]}) than those "
            f"of this run's fingerprint ({digest[:8]}): every node needs the same files"
        )


def _folder(path: str, hub_files: list[str]) -> Path:
    if path.startswith("demo:"):
        return resolve_checkpoint(path)
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder
    repository = hub_id(path)
    if repository is None:
        raise ConfigError(f"model: {path!r} is neither a folder nor a hub id (owner/name)")
    return hub_folder(repository, hub_files)
