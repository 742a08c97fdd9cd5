"""The images of an output's samples, read once more from the source through the plan."""

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
from pipeline.output.manifest import load_manifest, remade
from pipeline.output.plan import Plan, load_plan
from pipeline.sources.base import Source, Want
from pipeline.stages.imaging import Imaging, decode
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadImage, ConfigError, ShardError

THUMBNAIL_PX = 240
_QUALITY = 60
_SHARDS_AT_ONCE = 4

Place = tuple[int, int]  # shard, sample


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A finished or unfinished output with what its run.json says it was made of."""

    folder: str
    source: Source
    model: Model
    imaging: Imaging


def open_output(folder: str, storage: Storage) -> Opened:
    """An output as its run.json describes it; ConfigError if there is none, or it describes no output."""
    made_with = load_manifest(folder, storage)
    with made_with.describing(folder, storage) as settings:
        return Opened(
            folder=folder,
            source=resolve_source(remade(settings["source"])),
            model=remade(settings["model"], Model),
            imaging=remade(settings["image"], Imaging),
        )


def parse_key(key: str) -> Place:
    """The shard and the sample of a request; ConfigError if the key is not of the documented form."""
    try:
        shard, sample, _ = map(int, key.split("-"))
    except ValueError:
        raise ConfigError(f"key: {key!r} is not of the form 000000-00000000-0000") from None
    return shard, sample


def read_images(
    output: Opened, plan: Plan, shard: int, samples: Iterable[int], storage: Storage
) -> Iterator[tuple[int, bytes]]:
    """Those of one shard's samples that have an image, with its encoded bytes, in one pass over the shard.

    Raises:
        ShardError: the rest of the shard cannot be read.
        ConfigError: the source cannot be reached.
    """
    wanted = frozenset(samples)
    with storage.reaching("source.path", plan.source):
        found = output.source.samples(
            plan.shard(shard, storage), storage, lambda number: Want.ALL if number in wanted else Want.NOTHING
        )
        for number, sample in zip(range(max(wanted) + 1), found, strict=False):
            if number in wanted and sample is not None and sample.image is not None:
                yield number, sample.image


def thumbnails(output: Opened, images: Mapping[Place, str | None], storage: Storage) -> dict[Place, bytes]:
    """What the model saw of each image, as a WebP of at most THUMBNAIL_PX a side.

    An image that is gone, damaged or another one than it was by now is left out; so are all images if the
    model's folder or the source is gone.

    Args:
        images: places in the plan, each with the SHA-256 of the bytes that were there.
    """
    by_shard: dict[int, set[int]] = defaultdict(set)
    for shard, sample in images:
        by_shard[shard].add(sample)
    plan = load_plan(output.folder, storage)
    try:
        preprocess = preprocessor_of(output.model)
    except ConfigError:
        return {}
    if plan is None:
        return {}

    def of_shard(shard: int) -> dict[Place, bytes]:
        made = {}
        try:
            for sample, data in read_images(output, plan, shard, by_shard[shard], storage):
                same = hashlib.sha256(data).hexdigest() == images[shard, sample]
                if same and (thumbnail := _thumbnail(data, preprocess, output.imaging)):
                    made[shard, sample] = thumbnail
        except (ShardError, ConfigError):
            pass  # those that were read before are shown
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
