"""Computes the bytes of a request's tokens from the sizes in a checkpoint's config.json."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.models.checkpoints.files import Json, read_json
from pipeline.models.checkpoints.folders import resolve
from pipeline.models.checkpoints.kinds import is_original, language_sizes, vision_sizes
from pipeline.models.hub import hub_file, hub_id
from pipeline.support.errors import ConfigError

BYTES_OF = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    """Holds the sizes in a LLaVA's config.json that decide how many bytes its tokens take.

    Args:
        layers, kv_heads, head_dim: of the language model.
        vision_width: D, of the visual tokens before the projector.
        image_size: pixels of a side of the square that the vision tower sees.
    """

    layers: int
    kv_heads: int
    head_dim: int
    vision_width: int
    image_size: int

    def kv_bytes(self, dtype: str) -> int:
        """Return the bytes of one token in the KV cache: a key and a value in each layer."""
        return self.layers * 2 * self.kv_heads * self.head_dim * BYTES_OF[dtype]

    def token_bytes(self, dtype: str) -> int:
        """Return the bytes of one visual token between `encode` and `generate`."""
        return self.vision_width * BYTES_OF[dtype]

    @property
    def pixel_bytes(self) -> int:
        """Bytes of a decoded image between `decode` and `encode`: RGB, 8 bits each."""
        return 3 * self.image_size**2


def read_shape(path: str) -> Shape:
    """Read the shape of a LLaVA: a folder, a `demo:` name or a hub id; no weights are read.

    Raises:
        ConfigError: there is no config.json, or it is not that of a LLaVA.
    """
    file = _config_file(path)
    if not file.exists():
        raise ConfigError(f"{path} holds no config.json")
    try:
        return shape_of_config(read_json(file))
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError) as error:
        raise ConfigError(f"{file} is no configuration of a LLaVA: {error}") from None


def shape_of_config(config: Json) -> Shape:
    """Return the shape that a LLaVA's config.json describes."""
    original = is_original(config)  # one flat object
    language = language_sizes(config if original else config.get("text_config"))
    vision = vision_sizes(config)
    if original:
        vision = vision | {"hidden_size": config.get("mm_hidden_size", vision["hidden_size"])}
    heads = language["num_attention_heads"]
    return Shape(
        layers=language["num_hidden_layers"],
        kv_heads=language.get("num_key_value_heads") or heads,
        head_dim=language.get("head_dim") or language["hidden_size"] // heads,
        vision_width=vision["hidden_size"],
        image_size=vision["image_size"],
    )


def _config_file(path: str) -> Path:
    repository = hub_id(path)
    return resolve(path) / "config.json" if repository is None else hub_file(repository, "config.json")
