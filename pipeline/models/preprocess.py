"""An image as the vision tower sees it, but for rescaling and normalising, which the device does later.

Legend: S pixels a side.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor

from pipeline.errors import ConfigError

_MAX_RATIO = 16


@dataclass(frozen=True)
class Normalization:
    """pixel_values = (uint8 pixel * rescale_factor - mean) / std, channel by channel."""

    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Preprocessor:
    """The resizing and cropping of a checkpoint's own image processor, in its Pillow version.

    Always the Pillow version, torchvision or not: the two differ in their rounding.
    Raises ConfigError if the folder has no image processor, or one that does not make square crops.
    """

    def __init__(self, folder: Path):
        try:
            self._processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{folder} holds no image processor that can be loaded: {reason}") from error
        processor = self._processor
        crop = processor.crop_size if processor.do_center_crop else processor.size
        if not crop or not crop.get("height") or crop["height"] != crop.get("width"):
            raise ConfigError(f"{folder}: the image processor makes no square crops, but {crop}")
        self.image_size: int = crop["height"]
        plain = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else plain
        self.normalization = Normalization(
            rescale_factor=processor.rescale_factor if processor.do_rescale else 1.0,
            mean=tuple(mean),
            std=tuple(std),
        )

    def __call__(self, rgb: Image.Image) -> np.ndarray:
        """Resize and crop an RGB image: uint8 [S, S, 3].

        What lies beyond an aspect ratio of 16 is cut off before resizing, not after it: a processor that
        scales the short edge to S pixels would make hundreds of megabytes of a picture of 20000 x 10.
        """
        output = self._processor(_within_ratio(rgb), do_rescale=False, do_normalize=False)
        pixels = np.asarray(output["pixel_values"][0])
        return np.ascontiguousarray(pixels.transpose(1, 2, 0).astype(np.uint8, copy=False))


def _within_ratio(image: Image.Image) -> Image.Image:
    """The middle of an image that is longer than `_MAX_RATIO` times its width."""
    width, height = image.size
    limit = _MAX_RATIO * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))
