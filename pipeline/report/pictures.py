"""Reads the images of an output's samples from the source again, through the plan."""

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from pipeline.demo.pictures import resolve_source
from pipeline.models.config import Model
from pipeline.models.preprocess import Preprocessor, preprocessor_of
from pipeline.output.manifest import rebuild
from pipeline.output.opened import Output, source_of
from pipeline.sources.base import Source, Want
from pipeline.sources.items import samples_of
from pipeline.stages.imaging import Imaging, decode
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadImage, ConfigError, ShardError

THUMBNAIL_PX = 240
_QUALITY = 60
_SHARDS_AT_ONCE = 4

Place = tuple[int, int]  # shard, sample


@dataclass(frozen=True, kw_only=True)
class OutputImages:
    """Holds the source, model and image settings with which to decode an output's images again."""

    output: Output
    source: Source
    model: Model
    imaging: Imaging
    reading: Storage


def images_of(output: Output, reading: Storage | None = None) -> OutputImages:
    """Rebuild an output's source, model and image settings; ConfigError if run.json has another form.

    Args:
        reading: how to reach the source; None: as the output.
    """
    with output.manifest.explaining_errors(output.folder, output.storage) as settings:
        return OutputImages(
            output=output,
            source=resolve_source(source_of(settings)),
            model=rebuild(settings["model"], Model),
            imaging=rebuild(settings["image"], Imaging),
            reading=reading or output.storage,
        )


def parse_key(key: str) -> Place:
    """Parse a request's key into shard and sample; ConfigError if it is not of the documented form."""
    try:
        shard, sample, _ = map(int, key.split("-"))
    except ValueError:
        raise ConfigError(f"key: {key!r} is not of the form 000000-00000000-0000") from None
    return shard, sample


def read_images(images: OutputImages, shard: int, samples: Iterable[int]) -> Iterator[tuple[int, bytes]]:
    """Read the encoded images of some samples of one shard, in one pass over it; not all have an image.

    Raises:
        ShardError: the rest of the shard cannot be read.
        ConfigError: the source cannot be reached.
    """
    wanted = frozenset(samples)
    plan, reading = images.output.plan, images.reading
    with reading.reaching("source.path", plan.source):
        read = samples_of(
            images.source,
            plan.shard(shard, images.output.storage),
            reading,
            lambda number: Want.ALL if number in wanted else Want.NOTHING,
        )
        for number, sample in zip(range(max(wanted) + 1), read, strict=False):
            if number in wanted and sample is not None and sample.image is not None:
                yield number, sample.image


def thumbnails(images: OutputImages, places: Mapping[Place, str | None]) -> dict[Place, bytes]:
    """Make a WebP, of at most THUMBNAIL_PX a side, of the part of each image that the model saw.

    Images that have been removed, damaged or changed since are left out; so are all images if the model's
    folder or the source is gone.

    Args:
        places: in the plan, each with the SHA-256 of the image's bytes at the time of the run.
    """
    by_shard: dict[int, set[int]] = defaultdict(set)
    for shard, sample in places:
        by_shard[shard].add(sample)
    try:
        preprocess = preprocessor_of(images.model)
    except ConfigError:
        return {}

    def of_shard(shard: int) -> dict[Place, bytes]:
        made = {}
        try:
            for sample, data in read_images(images, shard, by_shard[shard]):
                same = hashlib.sha256(data).hexdigest() == places[shard, sample]
                if same and (thumbnail := _thumbnail(data, preprocess, images.imaging)):
                    made[shard, sample] = thumbnail
        except (ShardError, ConfigError):
            pass  # the images read before the error are shown
        return made

    with ThreadPoolExecutor(_SHARDS_AT_ONCE) as pool:
        return {place: data for made in pool.map(of_shard, sorted(by_shard)) for place, data in made.items()}


def _thumbnail(data: bytes, preprocess: Preprocessor, imaging: Imaging) -> bytes | None:
    try:
        square = Image.fromarray(preprocess(decode(data, imaging)[0]))
    except BadImage:
        return None
    if square.width > THUMBNAIL_PX:
        square = square.resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    square.save(sink, "WEBP", quality=_QUALITY, method=4)
    return sink.getvalue()
