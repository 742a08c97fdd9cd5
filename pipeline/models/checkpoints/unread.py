"""Refuses tensors that no part of a model reads, unless it is known why none does."""

import re
from collections.abc import Collection
from pathlib import Path

from pipeline.support.errors import ConfigError

# What the name of a tensor that nothing reads may match, and why nothing needs to read it.
HARMLESS = {
    r"(^|\.)rotary_emb\.inv_freq$": "follows from the configuration; older Llamas stored it",
    r"(^|\.)position_ids$": "counts the positions; older CLIPs stored it",
    r"^(model\.)?image_newline$": "read only where an image is split into tiles",
    r"^(logit_scale|logit_bias)$": "scales a whole image's likeness to a text",
    r"^vision_model\.": "a CLIP's own vision tower, where the LLaVA's runs",
    r"^(model\.)?(vision_tower\.){1,2}(vision_model\.)?head\.": "SigLIP's pooling head, which LLaVA omits",
    r"^model\.vision_tower\.(vision_tower|text_tower)\.(text_model|text_projection|visual_projection|logit_scale)":
        "CLIP's other parts, which TRIM's authors saved, too; model.clip gives them",
}  # fmt: skip
# What a tensor's name or type says of a checkpoint in a form that is not read.
_FORMS = {
    r"lora_[AB]|lora_embedding|\.base_layer\.|modules_to_save": "a LoRA adapter that is not merged",
    r"SCB$|absmax|quant_map|quant_state|weight_format|scale|zero|qweight|g_idx|packed": "quantised weights",
}


def refuse_unread(folder: Path, names: Collection[str], part: str) -> None:
    """Raise ConfigError if there is a tensor that is not HARMLESS; the line names the first one.

    Args:
        folder: the checkpoint.
        names: of its tensors that no part reads.
        part: to which they seem to belong.
    """
    unknown = sorted(name for name in names if not any(re.search(known, name) for known in HARMLESS))
    if not unknown:
        return
    form = form_of(unknown[0])
    more = f" (one of {len(unknown)})" if len(unknown) > 1 else ""
    what = f": {form} cannot be read; merge or dequantise it with the library that made it" if form else ""
    raise ConfigError(f"{folder}: no {part} reads the tensor {unknown[0]}{more}{what}")


def form_of(name: str) -> str | None:
    """Return the form, one that is not read, that a tensor's name tells; None if it tells none."""
    return next((form for pattern, form in _FORMS.items() if re.search(pattern, name)), None)
