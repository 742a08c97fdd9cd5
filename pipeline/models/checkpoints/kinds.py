"""Describes the families of image-text models (CLIP, SigLIP) whose vision tower a LLaVA may have.

A new family is a row in `KINDS` and an encoder, a subclass of `pipeline.models.towers.Towers`, that the row
names. The sizes are the library's defaults, for what a config.json leaves out.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.models.checkpoints.files import Json
from pipeline.support.errors import ConfigError

# Fields of trim.VisualTokens that a vision tower alone cannot fill.
JOINT_FIELDS = frozenset({"metric", "text"})


@dataclass(frozen=True)
class Squares:
    """Describes how a family's image processor makes squares, so that Pillow alone can do it.

    Args:
        processors: prefixes of the `image_processor_type` of such processors.
        crops: scale the short edge and cut out the middle, as CLIP does; else stretch, as SigLIP does.
        mean, std: the processor's defaults, channel by channel.
    """

    processors: tuple[str, ...]
    crops: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Kind:
    """Describes one family.

    Args:
        name: the `model_type` of a checkpoint with both towers; that of its vision tower begins with it.
        encoder: the dotted name of its subclass of `Towers`; loading it needs torch, reading this does not.
        squares: its image processor; None leaves images to the library's own, which is slower to start.
        vision: the sizes that two towers must agree in, with their defaults.
        tower_parts: what the tensors of a vision tower begin with, in the tower alone.
        head: what the tensors begin with that project a patch into the joint space.
        tokenizers: files any of which holds the text tower's tokenizer.
        strategy: the `vision_feature_select_strategy` under which LLaVA reads each patch and nothing else.
        landmark: a small tensor at the start of the vision tower, by which two towers are compared.
        lacks: fields of VisualTokens that the tower cannot fill.
        may_be_cut: LLaVAs are saved without the tower's last layers, which they do not read.
    """

    name: str
    encoder: str
    squares: Squares | None
    vision: dict[str, int]
    tower_parts: tuple[str, ...]
    head: str
    tokenizers: tuple[str, ...]
    strategy: str
    landmark: str
    lacks: frozenset[str] = frozenset()
    may_be_cut: bool = False


_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}

CLIP = Kind(
    name="clip",
    encoder="pipeline.models.clip.ClipEncoder",
    squares=Squares(
        processors=("CLIP", "LlavaImage"),
        crops=True,
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    vision={**_BASE, "image_size": 224, "patch_size": 32},
    tower_parts=("embeddings.", "pre_layrnorm.", "encoder.", "post_layernorm."),
    head="visual_projection.",
    tokenizers=("tokenizer.json", "vocab.json"),
    strategy="default",
    landmark="embeddings.class_embedding",
)
SIGLIP = Kind(  # arXiv 2303.15343: a pooling head instead of a CLS token
    name="siglip",
    encoder="pipeline.models.siglip.SiglipEncoder",
    squares=Squares(processors=("SiglipImage",), crops=False, mean=(0.5,) * 3, std=(0.5,) * 3),
    vision={**_BASE, "image_size": 224, "patch_size": 16},
    tower_parts=("embeddings.", "encoder.", "post_layernorm."),
    head="vision_model.head.",
    tokenizers=("tokenizer.json", "spiece.model"),
    strategy="full",
    landmark="embeddings.patch_embedding.bias",
    lacks=frozenset({"cls", "cls_attention", "head_mean_keys", "last_cls_attention", "last_keys"}),
    may_be_cut=True,
)
KINDS = {kind.name: kind for kind in (CLIP, SIGLIP)}

_LLAVA_VISION = {  # of a LLaVA without a vision_config
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


def is_original(config: Json) -> bool:
    """Tell whether a config.json is of LLaVA's original layout."""
    return "mm_vision_tower" in config and "vision_config" not in config


def kind_of(config: Json, where: Path | str = "config.json") -> Kind:
    """Return the family of a LLaVA's vision tower, from its config.json; ConfigError if it is unknown."""
    model_type = config.get("vision_config", {}).get("model_type", "clip_vision_model")
    for kind in KINDS.values():
        if model_type == f"{kind.name}_vision_model":
            return kind
    raise ConfigError(f"{where}: a vision tower of model_type {model_type!r} is none of {', '.join(KINDS)}")


def vision_sizes(config: Json) -> Json:
    """Return a LLaVA's vision_config with the defaults filled in."""
    return kind_of(config).vision | config["vision_config"] if "vision_config" in config else _LLAVA_VISION


def language_sizes(text_config: Json | None) -> Json:
    """Return the configuration of a LLaVA's language model with the defaults filled in."""
    config = text_config or {}
    return _LANGUAGE.get(config.get("model_type", "llama"), _LLAMA) | config
