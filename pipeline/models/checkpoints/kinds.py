"""The families of image-text models on whose vision tower a LLaVA may stand, and in what they differ.

The numbers are the library's defaults, for what a config.json leaves out. A new family is a row in `KINDS`
and an encoder of its own (pipeline/models/encoder.py chooses it).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.support.errors import ConfigError


@dataclass(frozen=True)
class Kind:
    """One family.

    Args:
        name: the `model_type` of a checkpoint with both towers; that of its vision tower begins with it.
        vision: the sizes that two towers must agree in, with their defaults.
        tokenizers: files any of which holds the text tower's tokenizer.
        strategy: the `vision_feature_select_strategy` under which LLaVA reads each patch and nothing else.
        landmark: a small tensor at the start of the vision tower, by which two of them are told apart.
        lacks: fields of VisualTokens that the tower cannot fill.
        tuned: LLaVAs are trained with this tower: each has its own, perhaps without the last layers.
        projects: into a joint space of its own width; else that is as wide as the vision tower.
    """

    name: str
    vision: dict[str, int]
    tokenizers: tuple[str, ...]
    strategy: str
    landmark: str
    lacks: frozenset[str] = frozenset()
    tuned: bool = False
    projects: bool = True

    def joint_width(self, config: dict[str, Any]) -> int:
        """P, the width of the space that a checkpoint's towers share, from its config.json."""
        if self.projects:
            return int(config.get("projection_dim", 512))
        return int((self.vision | config.get("vision_config", {}))["hidden_size"])


_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}

CLIP = Kind(
    name="clip",
    vision={**_BASE, "image_size": 224, "patch_size": 32},
    tokenizers=("tokenizer.json", "vocab.json"),
    strategy="default",
    landmark="embeddings.class_embedding",
)
SIGLIP = Kind(  # arXiv 2303.15343: no CLS token, a pooling head in its place
    name="siglip",
    vision={**_BASE, "image_size": 224, "patch_size": 16},
    tokenizers=("tokenizer.json", "spiece.model"),
    strategy="full",
    landmark="embeddings.patch_embedding.bias",
    lacks=frozenset({"cls", "cls_attention", "head_mean_keys", "last_cls_attention", "last_keys"}),
    tuned=True,
    projects=False,
)
KINDS = {kind.name: kind for kind in (CLIP, SIGLIP)}

_LLAVA_VISION = {  # of a LLaVA without any vision_config
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
_LLAMA = {
    "hidden_size": 4096,
    "max_position_embeddings": 2048,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
}
_LANGUAGE = {"llama": _LLAMA, "qwen2": {**_LLAMA, "max_position_embeddings": 32768}}


def kind_of(config: dict[str, Any], where: Path | str = "config.json") -> Kind:
    """The family of a LLaVA's vision tower, from its config.json. Raises ConfigError if not ours."""
    told = config.get("vision_config", {}).get("model_type", "clip_vision_model")
    for kind in KINDS.values():
        if told == f"{kind.name}_vision_model":
            return kind
    raise ConfigError(f"{where}: a vision tower of model_type {told!r} is none of {', '.join(KINDS)}")


def vision_sizes(config: dict[str, Any]) -> dict[str, Any]:
    """A LLaVA's vision_config, whole."""
    return kind_of(config).vision | config["vision_config"] if "vision_config" in config else _LLAVA_VISION


def language_sizes(text_config: dict[str, Any] | None) -> dict[str, Any]:
    """The configuration of a LLaVA's language model, whole."""
    told = text_config or {}
    return _LANGUAGE.get(told.get("model_type", "llama"), _LLAMA) | told
