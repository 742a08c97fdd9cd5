"""Bytes and requests to the object store that a job takes, whatever the number of its workers.

Bytes are the profile's own, request by request. Requests to the store are counted by what the code does:

    source      what its own `store_reads` says
    outputs     two looks a shard, to find it in the plan; one PUT a unit; at the end a look at its file and
                its footer, for summary.json; before and after the run a listing, a page for every thousand
                units
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipeline.compare.figures import shape_of
from pipeline.output.footers import Footer
from pipeline.output.manifest import Manifest, rebuild
from pipeline.output.plan import require_plan
from pipeline.output.units import Unit
from pipeline.planner.profile import Profile
from pipeline.sources.base import ReadTotals, Source
from pipeline.stages.arms import Arm
from pipeline.storage.listing import list_files
from pipeline.storage.uris import Storage, name_of

_PAGE = 1000  # keys in a page of a listing
_LISTINGS = 3


@dataclass(frozen=True)
class Traffic:
    """Of a whole job, or of what a profile has. None: the profile does not tell.

    Args:
        source_bytes, source_gets: read from the source; HEADs and listings count as GETs.
        moved_bytes: from a stage to the next one, by the stage that it comes from.
        output_bytes, output_puts, output_gets: of the units' files.
    """

    requests: float
    units: float
    source_bytes: float
    source_gets: float | None
    moved_bytes: dict[str, float | None]
    output_bytes: float
    output_puts: float
    output_gets: float


def traffic_of(profile: Profile, folder: str, storage: Storage, requests: int) -> Traffic:
    """What a job of so many requests takes, if it is like the profile."""
    footers, manifest = profile.everything, profile.manifest
    rows = float(sum(footer.totals.rows for footer in footers))
    times = requests / rows
    units = math.ceil(len(footers) * times)
    source: Source = rebuild(manifest.configuration["source"])
    source_bytes, gets = source.store_reads(_read_totals(footers, folder, storage))
    sizes = sum(
        file.size for file in list_files(f"{folder}/data", storage) if Unit.of_file(name_of(file.uri))
    )
    moved = moved_bytes(footers, manifest)
    return Traffic(
        requests=requests,
        units=units,
        source_bytes=source_bytes * times,
        source_gets=None if gets is None else math.ceil(gets * times),
        moved_bytes={stage: None if size is None else size * times for stage, size in moved.items()},
        output_bytes=sizes * times,
        output_puts=units,
        output_gets=2 * units
        + 2 * math.ceil(_shards(footers) * times)
        + _LISTINGS * math.ceil(units / _PAGE),
    )


def moved_bytes(footers: Iterable[Footer], manifest: Manifest) -> dict[str, float | None]:
    """Bytes that some units took from a stage to the next one: images, their pixels, the tokens kept."""
    footers = list(footers)
    images = sum(footer.image_bytes or 0 for footer in footers)
    samples = sum(footer.totals.samples for footer in footers)
    rows = sum(footer.totals.rows for footer in footers)
    tokens = sum(footer.totals.tokens["visual_tokens_kept"] for footer in footers)
    shape = shape_of(manifest)
    if shape is None:
        return {"read": images, "decode": None, "encode": None}
    token_bytes = shape.token_bytes(manifest.configuration["model"]["encode_dtype"])
    sent = 1.0 if _reads_request(manifest) else samples / max(1, rows)
    return {
        "read": images,
        "decode": samples * shape.pixel_bytes,
        "encode": tokens * token_bytes * sent,
    }


def _reads_request(manifest: Manifest) -> bool:
    """Whether an image's tokens are sent once for each of its questions."""
    settings = manifest.configuration["reducer"]
    return Arm("own", rebuild(settings), settings).reads_request


def _read_totals(footers: Iterable[Footer], folder: str, storage: Storage) -> ReadTotals:
    """Sum what the units read of their source; a shard that was not read to its end counts by its part."""
    footers = list(footers)
    shard_bytes: dict[int, int] = {}
    for footer in footers:
        shard_bytes[footer.shard] = shard_bytes.get(footer.shard, 0) + footer.source_bytes
    return ReadTotals(
        samples=sum(footer.samples for footer in footers),
        complete_shards=_shards(footers),
        shard_bytes=tuple(shard_bytes.values()),
        image_bytes=sum(footer.image_bytes or 0 for footer in footers),
        first_shard=require_plan(folder, storage).shard(0, storage),
    )


def _shards(footers: Iterable[Footer]) -> int:
    """Shards that were read to their ends."""
    return sum(footer.end for footer in footers)
