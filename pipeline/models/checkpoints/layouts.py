"""Where the parts of a LLaVA lie in its weights: tensor names of the three layouts.

- the original one (haotian-liu/LLaVA, its forks): `model.layers...`, `model.mm_projector.0...`, `lm_head...`,
  the vision tower left out, or in `model.vision_tower.vision_tower.vision_model...`
- the published one of Hugging Face: `language_model.model...`, `multi_modal_projector.linear_1...`,
  `vision_tower.vision_model...`
- that of transformers 5: `model.language_model...`, `model.multi_modal_projector...`, `model.vision_tower...`

The names are facts of transformers' convert_llava_weights_to_hf.py and of the checkpoints' indices.
"""

import re

# Where the language model's weights lie in a LLaVA checkpoint -> where they lie in the model alone. In the
# original layout they lie there already, as does lm_head in that of transformers 5.
LANGUAGE_KEYS = {
    r"^language_model\.model\.": "model.",
    r"^language_model\.lm_head\.": "lm_head.",
    r"^model\.language_model\.": "model.",
}
_LANGUAGE = re.compile(r"(?:model\.(?:embed_tokens|layers|norm)|lm_head)\.")
# The same of its vision tower.
TOWER_KEYS = {r"^(?:model\.)?(?:vision_tower\.){1,2}(?:vision_model\.)?": ""}
_TOWER = re.compile(
    r"^(?:model\.)?(?:(?:vision_tower\.){1,2}(?:vision_model\.)?|vision_model\.)"
    r"(?=embeddings\.|pre_layrnorm\.|encoder\.|post_layernorm\.)"
)
_PROJECTOR = re.compile(r"^(?:model\.)?(?:multi_modal_projector|mm_projector)\.")
_LINEAR = {"0": "linear_1", "2": "linear_2"}  # of the original's nn.Sequential, with GELU between them
_BUFFER = ".inv_freq"  # older Llamas stored what is computed from the configuration


def language_name(name: str) -> str | None:
    """A tensor's name in the language model alone; None if it is not part of that."""
    for pattern, replacement in LANGUAGE_KEYS.items():
        name = re.sub(pattern, replacement, name)
    return name if _LANGUAGE.match(name) and not name.endswith(_BUFFER) else None


def tower_name(name: str) -> str | None:
    """A tensor's name in the vision tower alone; None if it is not part of that."""
    return _TOWER.sub("", name) if _TOWER.match(name) else None


def projector_name(name: str) -> str | None:
    """A tensor's name in the projector alone (`linear_1.weight`, ...); None if it is not part of that."""
    if not _PROJECTOR.match(name):
        return None
    layer, dot, rest = _PROJECTOR.sub("", name).partition(".")
    return f"{_LINEAR.get(layer, layer)}{dot}{rest}"
