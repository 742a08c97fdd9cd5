"""Decodes image files of seven formats to RGB pixels, within bounds of memory and time."""

import io
import math
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

# each registers its format with Pillow, which otherwise loads all of its plug-ins
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from pipeline.stages.formats.openers import OPENERS
from pipeline.stages.formats.opening import MEMORY, MIB, Opening, damaged, require_memory, require_size
from pipeline.stages.formats.orientation import orientation_of
from pipeline.stages.to_rgb import to_rgb
from pipeline.support import memory
from pipeline.support.errors import BadImage
from pipeline.support.fields import counted, require
from pipeline.support.image_formats import IMAGE_FORMATS, format_of

# Exceptions that Pillow raises for damaged files.
_DAMAGE = (
    *(OSError, ValueError, SyntaxError, EOFError, MemoryError),
    *(struct.error, ArithmeticError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError),
)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_CEILING = MEMORY + 64 * MIB  # what is estimated, and what is allocated beside it
# of a pixel; 4 in other modes
_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
_ONE_AT_A_TIME = threading.Lock()

Image.MAX_IMAGE_PIXELS = None  # the limit is Imaging.max_pixels, checked before anything is decoded
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # decoding tasks share the cores


@dataclass(frozen=True, kw_only=True)
class Imaging:
    """Configures decoding. An image of more than `max_pixels` (width x height) is refused as a bomb.

    A large JPEG is decoded at 1/2, 1/4 or 1/8 of its size, provided that both sides stay `draft_gap` times
    as long as the square that the model takes. With 3, the square's values (0 to 255) differ by less than
    0.5 on average, and by at most 4 in 999 of 1000 places; with 2, by 1 and 8. 0 decodes every pixel.

    Args:
        formats: those that are decoded, whatever a file's name says; of an animation or of pages, the first.
        allow_truncated: decode a cut or damaged file as far as it goes; the rest is grey or black.
    """

    max_pixels: int = counted(100_000_000)
    draft_gap: float = counted(3.0)
    formats: list[str] = counted(default_factory=lambda: list(IMAGE_FORMATS), neutral=True)
    allow_truncated: bool = counted(False, neutral=True)

    def __post_init__(self) -> None:
        require(self.max_pixels >= 1, "image.max_pixels must be at least 1")
        require(
            self.draft_gap == 0 or self.draft_gap >= 1,
            "image.draft_gap must be 0, or at least 1: no side gets longer",
        )
        unknown = [str(name) for name in self.formats if name not in IMAGE_FORMATS]
        require(not unknown, f"image.formats: {', '.join(unknown)} is none of {', '.join(IMAGE_FORMATS)}")
        require(bool(self.formats), f"image.formats must name at least one of {', '.join(IMAGE_FORMATS)}")
        in_order = [name for name in IMAGE_FORMATS if name in self.formats]
        object.__setattr__(self, "formats", in_order)  # another order is not another setting


def decode(data: bytes, imaging: Imaging, side: int | None = None) -> tuple[Image.Image, int, int]:
    """Decode an image file to RGB, and turn it upright by its EXIF orientation.

    Takes at most `MEMORY` bytes beside `data`.

    Args:
        data: the encoded file, or a buffer of it.
        imaging: limits.
        side: of the square that the model takes, in pixels; None decodes every pixel.

    Returns:
        The picture, and the width and height stored in the file (before turning and drafting).

    Raises:
        BadImage: the bytes are of no format in `imaging.formats`, are damaged, or are too costly to decode.
    """
    view = memoryview(data).cast("B")
    kind = _require_format(view, imaging)
    try:
        with memory.at_most(_CEILING), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns about sizes and metadata that do no harm here
            try:
                return _decoded(view, kind, imaging, side)
            except _DAMAGE:
                if not imaging.allow_truncated:
                    raise
            with _as_far_as_it_goes():
                return _decoded(view, kind, imaging, side)
    except UnidentifiedImageError:  # its text has a memory address, which differs in every run
        raise damaged(f"its {IMAGE_FORMATS[kind].name} header is damaged or of an unknown kind") from None
    except MemoryError:
        raise damaged(f"it takes more than {_CEILING // MIB} MiB") from None
    except _DAMAGE as error:
        reason = " ".join(str(error)[:200].split())
        raise damaged(reason or type(error).__name__) from None


def _require_format(data: memoryview, imaging: Imaging) -> str:
    """Return the file's format, unless it is unknown, switched off or missing in Pillow."""
    kind = format_of(data)
    if kind is None:
        *names, last = (IMAGE_FORMATS[name].name for name in imaging.formats)
        raise damaged(f"it is no {', '.join(names)}{' or ' if names else ''}{last}")
    if kind not in imaging.formats:
        raise BadImage(f"the image is a {IMAGE_FORMATS[kind].name}, which image.formats leaves out")
    if not OPENERS[kind].can_be_read:
        raise BadImage(f"the image is a {IMAGE_FORMATS[kind].name}, which the installed Pillow cannot read")
    return kind


def _decoded(data: memoryview, kind: str, imaging: Imaging, side: int | None) -> tuple[Image.Image, int, int]:
    """Decode what a format's module leaves of a file; what is no longer needed is freed at each step."""
    opening = OPENERS[kind].open(data, imaging.max_pixels)
    stream = io.BytesIO(opening.data)
    opened = Image.open(stream, formats=opening.plugins)
    width, height = opened.size
    require_size(width, height, imaging.max_pixels)
    if side is not None and imaging.draft_gap:
        least = math.ceil(side * imaging.draft_gap)
        opened.draft(None, (least, least))  # does nothing for other formats
    orientation, bits = opening.orientation or orientation_of(opened.info), opening.bits
    turn = _TURNS.get(orientation) if orientation else None
    _require_room(opened, opening, width * height, copied=turn is not None or opened.mode != "RGB")
    opened.load()
    del opening
    stream.close()
    if opened.fp is not None:
        opened.fp.close()
    image: Image.Image = opened
    if turn is not None:
        image = image.transpose(turn)
    del opened
    return to_rgb(image, bits), width, height


def _require_room(image: ImageFile.ImageFile, opening: Opening, pixels: int, *, copied: bool) -> None:
    """Refuse an image that would take too much memory, before it is decoded."""
    width, height = image.size
    rows = 8 * height  # Pillow keeps a pointer to each row
    decoded = _BYTES.get(image.mode, 4) * width * height + rows
    scratch = opening.scratch + opening.scratch_of_pixel * pixels
    rgb = 4 * width * height + rows if copied else 0
    require_memory(decoded + max(scratch + len(opening.data), rgb), *image.size)


@contextmanager
def _as_far_as_it_goes() -> Iterator[None]:
    """Let Pillow decode cut files. Its switch is one of the whole process, so that threads take turns."""
    with _ONE_AT_A_TIME:
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before
