"""Maps tensor names of the three layouts of LLaVA's weights to the names within each part.

- the original one (haotian-liu/LLaVA, its forks): `model.layers...`, `model.mm_projector.0...`, `lm_head...`,
  the vision tower left out, or in `model.vision_tower.vision_tower.vision_model...`
- the published one of Hugging Face: `language_model.model...`, `multi_modal_projector.linear_1...`,
  `vision_tower.vision_model...`
- that of transformers 5: `model.language_model...`, `model.multi_modal_projector...`, `model.vision_tower...`

The names are those of transformers' convert_llava_weights_to_hf.py and of the checkpoints' indices.
"""

import re

from pipeline.models.checkpoints.kinds import KINDS

# Prefixes of the language model's weights in a LLaVA -> prefixes in the language model alone. In the original
# layout they are the same, as is lm_head in that of transformers 5.
LANGUAGE_KEYS = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
_LANGUAGE = re.compile(r"(?:model\.(?:embed_tokens|layers|norm)|lm_head)\.")
# The same for its vision tower, and for that of a CLIP or SigLIP.
TOWER_KEYS = {r"^(?:model\.)?(?:(?:vision_tower\.){1,2}(?:vision_model\.)?|vision_model\.)": ""}
_TOWER = re.compile(
    r"^(?:model\.)?(?:(?:vision_tower\.){1,2}(?:vision_model\.)?|vision_model\.)"
    + f"(?={'|'.join(sorted({re.escape(part) for kind in KINDS.values() for part in kind.tower_parts}))})"
)
_PROJECTOR = re.compile(r"^(?:model\.)?(?:multi_modal_projector|mm_projector)\.")
_LINEAR = {"0": "linear_1", "2": "linear_2"}  # of the original's nn.Sequential, with GELU between them
_BUFFER = ".inv_freq"  # older Llamas stored values that follow from the configuration


def language_name(name: str) -> str | None:
    """Return a tensor's name in the language model alone; None if it is not part of it."""
    for pattern, replacement in LANGUAGE_KEYS.items():
        name = re.sub(pattern, replacement, name)
    return name if _LANGUAGE.match(name) and not name.endswith(_BUFFER) else None


def tower_name(name: str) -> str | None:
    """Return a tensor's name in the vision tower alone; None if it is not part of it."""
    return _TOWER.sub("", name) if _TOWER.match(name) else None


def projector_name(name: str) -> str | None:
    """Return a tensor's name in the projector alone (`linear_1.weight`, ...); None if not part of it."""
    if not _PROJECTOR.match(name):
        return None
    layer, dot, rest = _PROJECTOR.sub("", name).partition(".")
    return f"{_LINEAR.get(layer, layer)}{dot}{rest}"


def published_name(name: str) -> str | None:
    """Return a tensor's name in the published layout; None if it is part of none of the three."""
    if (language := language_name(name)) is not None:
        return f"language_model.{language}"
    if (tower := tower_name(name)) is not None:
        return f"vision_tower.vision_model.{tower}"
    if (projector := projector_name(name)) is not None:
        return f"multi_modal_projector.{projector}"
    return None
