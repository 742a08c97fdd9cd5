"""Resizes and crops images for the vision tower; rescaling and normalising happen later, on the device.

Legend: S pixels a side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.models.checkpoints.files import Json, read_json
from pipeline.models.checkpoints.kinds import CLIP, KINDS, Squares, is_original
from pipeline.models.config import Model
from pipeline.support.errors import ConfigError, first_line

if TYPE_CHECKING:
    from transformers.image_processing_utils import BaseImageProcessor

_MAX_RATIO = 16
_MAX_PADDED_PX = 8192


@dataclass(frozen=True)
class Normalization:
    """Describes pixel_values = (uint8 pixel * rescale_factor - mean) / std, channel by channel."""

    rescale_factor: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Preprocessor:
    """Resizes and crops as a checkpoint's own image processor does in its Pillow version.

    Always the Pillow version, torchvision or not: the two round differently. The processors of the families
    in `KINDS` (CLIP's, which is LLaVA-1.5's, LLaVA's own, which may pad, and SigLIP's) are done here in calls
    of Pillow, bit for bit as transformers does it: importing that would cost a decoding worker seconds and
    300 MB. Any other processor is the library's own.

    Args:
        folder: of a LLaVA or a CLIP.
        pad: first pad the image to a square, with the mean colour on both sides.

    Raises ConfigError if the folder has no image processor, or one that does not make square crops.
    """

    def __init__(self, folder: Path, pad: bool = False):
        settings = settings_of(folder)
        squares = _squares_of(settings)
        side = _side(settings, squares) if squares else None
        if pad and (side is None or not squares or not squares.crops):
            raise ConfigError(f"{folder}: only CLIP's image processor can be given squares with padding")
        if side is not None and squares:
            self.image_size = side
            self._resample = Image.Resampling(settings.get("resample", Image.Resampling.BICUBIC))
            self._library: BaseImageProcessor | None = None
        else:
            squares = CLIP.squares
            self._library = _library_processor(folder)
            self.image_size = _crop_side(folder, self._library)
            # a step that the library's own settings do not name is one that it does not do
            settings = {"do_rescale": False, "do_normalize": False, **self._library.to_dict()}
        assert squares is not None
        self._stretches = not squares.crops
        self.normalization = _normalization(settings, squares)
        padded = pad or (_kind(settings).startswith("Llava") and settings.get("do_pad", False))
        self._background = tuple(int(255 * mean) for mean in self.normalization.mean) if padded else None
        if self._library is not None:
            self._require_plain(folder, self._library)

    def __call__(self, rgb: Image.Image) -> NDArray[np.uint8]:
        """Resize an RGB image, and crop it if the processor does: uint8 [S, S, 3].

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

    def _require_plain(self, folder: Path, library: "BaseImageProcessor") -> None:
        """Refuse a library's processor that does more than resize, crop, rescale and normalise."""
        noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
        picture = Image.fromarray(noise)
        theirs = np.asarray(library(picture)["pixel_values"][0])
        to = self.normalization
        ours = ((self(picture) * to.rescale_factor - to.mean) / to.std).transpose(2, 0, 1)
        grey = abs(to.rescale_factor) / min(map(abs, to.std))  # the library's may round to whole grey values
        if ours.shape != theirs.shape or not np.allclose(ours, theirs, rtol=0, atol=1.01 * grey):
            raise ConfigError(
                f"{folder}: {type(library).__name__} does more than resize, crop, rescale and normalise, "
                "which is not supported"
            )


def preprocessor_of(model: Model) -> Preprocessor:
    """Make the preprocessor of a model; of its checkpoints, only small files are read.

    A LLaVA in the original layout has no image processor of its own: it uses its CLIP's, and its config.json
    (`image_aspect_ratio`) says whether images are padded first.
    """
    from pipeline.models.checkpoints.files import read_config
    from pipeline.models.checkpoints.folders import clip_of, resolve_small
    from pipeline.models.checkpoints.original import pads

    llava = resolve_small(model.path)
    config = read_config(llava)
    folder = llava if not is_original(config) else resolve_small(str(clip_of(model, llava)))
    try:
        return Preprocessor(folder, pad=is_original(config) and pads(llava, config))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise ConfigError(
            f"{folder}: the image processor's settings cannot be read: {first_line(error)}"
        ) from None


def settings_of(folder: Path) -> Json:
    """Read the image processor's settings as transformers finds them; empty if there are none.

    Those within processor_config.json, where transformers 5 saves them, come before an older
    preprocessor_config.json (get_image_processor_dict of transformers/image_processing_base.py, 5.23).
    """
    newer, older = (folder / name for name in ("processor_config.json", "preprocessor_config.json"))
    settings = read_json(newer).get("image_processor") if newer.exists() else None
    if settings is None and older.exists():
        settings = read_json(older)
        if not _kind(settings):
            settings = {}
    if not isinstance(settings or {}, dict):
        raise ConfigError(f"{newer}: image_processor is no object")
    return settings or {}


def _squares_of(settings: Json) -> Squares | None:
    """Find the family whose image processor has these settings."""
    families = (kind.squares for kind in KINDS.values() if kind.squares)
    return next((squares for squares in families if _kind(settings).startswith(squares.processors)), None)


def _side(settings: Json, squares: Squares) -> int | None:
    """Return S; None if these settings change more than the size of the family's processor."""
    return _crop_to(settings) if squares.crops else _stretch_to(settings)


def _crop_to(settings: Json) -> int | None:
    """Return S of a processor that scales the short edge to S and cuts out the middle S x S."""
    size, crop = settings.get("size"), settings.get("crop_size")
    edge = size.get("shortest_edge") if isinstance(size, dict) and len(size) == 1 else size
    square = {"height": edge, "width": edge}
    switches = ("do_resize", "do_center_crop", "do_convert_rgb")
    if not all(settings.get(name, True) for name in switches):
        return None
    return edge if isinstance(edge, int) and crop in (edge, square) else None


def _stretch_to(settings: Json) -> int | None:
    """Return S of a processor that scales both width and height to S."""
    size = settings.get("size")
    edge = size.get("height") if isinstance(size, dict) else None
    plain = settings.get("do_resize", True) and not (settings.get("do_center_crop") or settings.get("do_pad"))
    square = isinstance(edge, int) and size == {"height": edge, "width": edge}
    return edge if plain and square else None


def _normalization(settings: Json, squares: Squares) -> Normalization:
    rescales, normalizes = settings.get("do_rescale", True), settings.get("do_normalize", True)
    mean, std = settings.get("image_mean", squares.mean), settings.get("image_std", squares.std)
    return Normalization(
        rescale_factor=float(settings.get("rescale_factor", 1 / 255)) if rescales else 1.0,
        mean=_channels(mean if normalizes else 0),
        std=_channels(std if normalizes else 1),
    )


def _channels(values: float | Sequence[float]) -> tuple[float, ...]:
    """Return one value for each channel; a single number counts for all three."""
    return tuple(map(float, values if isinstance(values, Sequence) else (values,) * 3))


def resize_and_crop(image: Image.Image, side: int, resample: Image.Resampling) -> Image.Image:
    """Scale the short edge to `side` and cut out the middle square."""
    width, height = image.size
    long = int(side * max(width, height) / min(width, height))
    new_width, new_height = (side, long) if width <= height else (long, side)
    left, top = (new_width - side) // 2, (new_height - side) // 2
    return image.resize((new_width, new_height), resample).crop((left, top, left + side, top + side))


def pad_to_square(image: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """Put the image in the middle of a square of its longer side, as LLaVA's `expand2square` does."""
    too_long = -(-max(image.size) // _MAX_PADDED_PX)
    if too_long > 1:
        image = image.reduce(too_long)
    side = max(image.size)
    square = Image.new("RGB", (side, side), background)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _kind(settings: Json) -> str:
    """Return the class name of the image processor."""
    return str(settings.get("image_processor_type") or settings.get("feature_extractor_type") or "")


def _library_processor(folder: Path) -> "BaseImageProcessor":
    from transformers import AutoImageProcessor

    try:
        processor: BaseImageProcessor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, backend="pil", trust_remote_code=False
        )
        return processor
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{folder} holds no image processor that can be loaded: {reason}") from error


def _crop_side(folder: Path, processor: Any) -> int:  # its sizes are attributes of subclasses alone
    crop = processor.crop_size if processor.do_center_crop else processor.size
    if not crop or not crop.get("height") or crop["height"] != crop.get("width"):
        raise ConfigError(f"{folder}: the image processor makes no square crops, but {crop}")
    return int(crop["height"])


def _within_ratio(image: Image.Image) -> Image.Image:
    """Cut an image down to an aspect ratio of `_MAX_RATIO` at most, keeping its middle."""
    width, height = image.size
    limit = _MAX_RATIO * min(width, height)
    if max(width, height) <= limit:
        return image
    left, top = max(0, (width - limit) // 2), max(0, (height - limit) // 2)
    return image.crop((left, top, left + min(width, limit), top + min(height, limit)))
