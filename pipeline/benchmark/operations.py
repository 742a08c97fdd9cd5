"""Counts the floating-point operations of a model's parts: two a weight and token, and those of attention."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.layouts import language_name
from pipeline.models.checkpoints.loading import load_config
from pipeline.models.checkpoints.tensors import locate


@dataclass(frozen=True)
class Operations:
    """Holds the sizes that decide how many operations an image and a request take.

    Args:
        layers, width, layer_weights: of the language model, the last of all its layers together.
        head_weights: of the output layer, which each generated token passes.
        patches, vision_layers, vision_width, vision_weights: of the vision layers that are run.
    """

    layers: int
    width: int
    layer_weights: int
    head_weights: int
    patches: int
    vision_layers: int
    vision_width: int
    vision_weights: int

    def encode(self) -> float:
        """Count the operations of the vision tower for one image."""
        tokens = self.patches + 1
        attention = 2 * self.vision_layers * self.vision_width * tokens**2
        return 2.0 * (self.vision_weights * tokens + attention)

    def prefill(self, length: int) -> float:
        """Count the operations of a prompt's forward pass, with causal attention.

        The embedding is a look-up, and logits are computed for one token alone: neither counts.
        """
        return 2.0 * (self.layer_weights * length + self.layers * self.width * length**2)

    def decode(self, length: int, tokens: int) -> float:
        """Count the operations of `tokens` generated after a prompt; the first comes with the prefill."""
        later = max(0, tokens - 1)
        seen = later * length + later * (later + 1) / 2
        weights = tokens * self.head_weights + later * self.layer_weights
        return 2.0 * (weights + 2 * self.layers * self.width * seen)


def operations_of(llava: Path, geometry: Geometry) -> Operations:
    """Read the sizes of a LLaVA, of its weights the headers alone."""
    config = load_config(llava)
    text, vision = config.text_config, config.vision_config
    in_layers = [
        where.count
        for name, where in locate(llava).items()
        if (language_name(name) or "").startswith("model.layers.")
    ]
    a_vision_layer = 4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size
    return Operations(
        layers=text.num_hidden_layers,
        width=text.hidden_size,
        layer_weights=sum(in_layers),
        head_weights=text.vocab_size * text.hidden_size,
        patches=geometry.num_patches,
        vision_layers=geometry.feature_layer,
        vision_width=vision.hidden_size,
        vision_weights=geometry.feature_layer * a_vision_layer,
    )
