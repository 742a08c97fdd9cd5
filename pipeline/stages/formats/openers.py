"""Says how a file of each image format is opened."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import features

from pipeline.stages.formats.avif import open_avif
from pipeline.stages.formats.bmp import open_bmp
from pipeline.stages.formats.gif import open_gif
from pipeline.stages.formats.jpeg import open_jpeg
from pipeline.stages.formats.opening import Data, Opening
from pipeline.stages.formats.png import open_png
from pipeline.stages.formats.tiff import open_tiff
from pipeline.stages.formats.webp import open_webp


@dataclass(frozen=True)
class Opener:
    """Opens files of one format.

    Args:
        open: takes a file and the most pixels that it may have; raises BadImage.
        codec: the part of Pillow without which it cannot be read; empty: Pillow always has it.
    """

    open: Callable[[Data, int], Opening]
    codec: str = ""

    @property
    def can_be_read(self) -> bool:
        """Whether the installed Pillow has what it needs."""
        return not self.codec or bool(features.check(self.codec))


# By the keys of IMAGE_FORMATS.
OPENERS = {
    "jpeg": Opener(open_jpeg, "jpg"),
    "png": Opener(open_png, "zlib"),
    "webp": Opener(open_webp, "webp"),
    "gif": Opener(open_gif),
    "bmp": Opener(open_bmp),
    "tiff": Opener(open_tiff),
    "avif": Opener(open_avif, "avif"),
}
