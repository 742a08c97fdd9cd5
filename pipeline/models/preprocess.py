"""An image as the vision tower sees it, but for rescaling and normalising, which the device does later.

Legend: S pixels a side.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline.models.config import Model
from pipeline.support.errors import ConfigError

_MAX_RATIO = 16
_MAX_PADDED_PX = 8192
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Normalization:
    """pixel_values = (uint8 pixel * rescale_factor - mean) / std, channel by channel."""

    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Preprocessor:
    """The resizing and cropping of a checkpoint's own image processor, in its Pillow version.

    Always the Pillow version, torchvision or not: the two differ in their rounding. CLIP's processor, the
    one of LLaVA-1.5, LLaVA's own, which may pad, and SigLIP's, which stretches images to squares, are done
    here in calls of Pillow, bit for bit as transformers does it: a decoding worker would need seconds and
    300 MB to import that. Any other processor is the library's own.

    Args:
        folder: of a LLaVA or a CLIP.
        pad: first make a square of the image, with the mean colour on both sides of it.

    Raises ConfigError if the folder has no image processor, or one that does not make square crops.
    """

    def __init__(self, folder: Path, pad: bool = False):
        settings = settings_of(folder)
        side, self._stretches = _clip_side(settings), False
        if pad and side is None:
            raise ConfigError(f"{folder}: only CLIP's image processor can be given squares with padding")
        if side is None and (side := _siglip_side(settings)) is not None:
            self._stretches = True
            settings = {"image_mean": (0.5,) * 3, "image_std": (0.5,) * 3} | settings
        if side is not None:
            self.image_size = side
            self._resample = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))
            self._library = None
        else:
            self._library = _library_processor(folder)
            self.image_size = _crop_side(folder, self._library)
            settings = self._library.to_dict()
        given = (
            settings
            if settings.get("do_normalize", True)
            else {"image_mean": (0,) * 3, "image_std": (1,) * 3}
        )
        self.normalization = Normalization(
            rescale_factor=settings.get("rescale_factor", 1 / 255)
            if settings.get("do_rescale", True)
            else 1.0,
            mean=tuple(map(float, given.get("image_mean", _CLIP_MEAN))),
            std=tuple(map(float, given.get("image_std", _CLIP_STD))),
        )
        padded = pad or (_kind(settings).startswith("Llava") and settings.get("do_pad", False))
        self._background = tuple(int(255 * mean) for mean in self.normalization.mean) if padded else None

    def __call__(self, rgb: Image.Image) -> np.ndarray:
        """Resize an RGB image and crop it, if the processor does: uint8 [S, S, 3].

        What lies beyond an aspect ratio of 16 is cut off before resizing, not after it: a processor that
        scales the short edge to S pixels would make hundreds of megabytes of a picture of 20000 x 10. Where
        the image is padded, one with more than 8192 pixels a side is first scaled down by a whole number.
        """
        if self._stretches:
            return np.array(rgb.resize((self.image_size, self.image_size), self._resample))
        image = _within_ratio(rgb)
        if self._library is None:
            if self._background is not None:
                image = pad_to_square(image, self._background)
            return np.array(resize_and_crop(image, self.image_size, self._resample))
        output = self._library(image, do_rescale=False, do_normalize=False)
        pixels = np.asarray(output["pixel_values"][0])
        return np.ascontiguousarray(pixels.transpose(1, 2, 0).astype(np.uint8, copy=False))


def preprocessor_of(model: Model) -> Preprocessor:
    """How a model's images are prepared; of its checkpoints, only small files are read.

    A LLaVA in the original layout has no image processor of its own, but its CLIP's, and says in its
    config.json (`image_aspect_ratio`) whether images are padded first.
    """
    from pipeline.models.checkpoints.folders import clip_of, resolve
    from pipeline.models.checkpoints.original import is_original, pads
    from pipeline.models.checkpoints.tensors import read_config

    llava = resolve(model.path)
    config = read_config(llava)
    if not is_original(config):
        return Preprocessor(llava)
    return Preprocessor(resolve(clip_of(model, llava)), pad=pads(llava, config))


def settings_of(folder: Path) -> dict[str, Any]:
    """The image processor's settings as the checkpoint's files hold them; empty if none are found."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_bytes())
            found = content.get("image_processor", content)
            if isinstance(found, dict) and (
                "image_processor_type" in found or "feature_extractor_type" in found
            ):
                return found
    return {}


def _clip_side(settings: dict[str, Any]) -> int | None:
    """S, if this is CLIP's or LLaVA's processor: the short edge scaled to S, the middle S x S cut out."""
    size, crop = settings.get("size"), settings.get("crop_size")
    edge = size.get("shortest_edge") if isinstance(size, dict) and len(size) == 1 else size
    square = {"height": edge, "width": edge}
    switches = ("do_resize", "do_center_crop", "do_convert_rgb")
    if not _kind(settings).startswith(("CLIP", "LlavaImage")) or not all(
        settings.get(name, True) for name in switches
    ):
        return None
    return edge if isinstance(edge, int) and crop in (edge, square) else None


def _siglip_side(settings: dict[str, Any]) -> int | None:
    """S, if this is SigLIP's processor: width and height both scaled to S, whatever they were."""
    size = settings.get("size")
    edge = size.get("height") if isinstance(size, dict) else None
    plain = settings.get("do_resize", True) and not (settings.get("do_center_crop") or settings.get("do_pad"))
    square = isinstance(edge, int) and size == {"height": edge, "width": edge}
    return edge if _kind(settings).startswith("SiglipImage") and plain and square else None


def resize_and_crop(image: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    width, height = image.size
    long = int(side * max(width, height) / min(width, height))
    new_width, new_height = (side, long) if width <= height else (long, side)
    left, top = (new_width - side) // 2, (new_height - side) // 2
    return image.resize((new_width, new_height), resample).crop((left, top, left + side, top + side))


def pad_to_square(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """The image in the middle of a square of its longer side, as LLaVA's `expand2square` has it."""
    too_long = -(-max(image.size) // _MAX_PADDED_PX)
    if too_long > 1:
        image = image.reduce(too_long)
    side = max(image.size)
    square = Image.new("RGB", (side, side), background)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _kind(settings: dict[str, Any]) -> str:
    return str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")


def _library_processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{folder} holds no image processor that can be loaded: {reason}") from error


def _crop_side(folder: Path, processor: Any) -> int:
    crop = processor.crop_size if processor.do_center_crop else processor.size
    if not crop or not crop.get("height") or crop["height"] != crop.get("width"):
        raise ConfigError(f"{folder}: the image processor makes no square crops, but {crop}")
    return int(crop["height"])


def _within_ratio(image: Image.Image) -> Image.Image:
    """The middle of an image that is longer than `_MAX_RATIO` times its width."""
    width, height = image.size
    limit = _MAX_RATIO * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))
