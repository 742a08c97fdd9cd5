"""Estimates the bytes and the requests to the object store of a job; workers do not change them.

Bytes are those of the profile, for each request. Requests to the store are counted by what the code does:

    source      see `Source.store_reads`
    outputs     2 GETs a shard, to find it in the plan; 1 PUT a unit; for the sums of a finished shard 1 GET a
                unit, to read its footer, 2 PUTs, to write them, and 2 GETs, to read them at the end; 3
                listings, each with a page for every thousand units
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.compare.figures import shape_of
from pipeline.output.footers import Footer
from pipeline.output.manifest import Manifest, rebuild
from pipeline.output.opened import source_of
from pipeline.output.plan import require_plan
from pipeline.output.units import Unit
from pipeline.planner.profile import Profile
from pipeline.sources.base import ReadTotals
from pipeline.stages.arms import Arm
from pipeline.storage.listing import list_files
from pipeline.storage.uris import Storage, name_of

_PAGE = 1000  # keys in a page of a listing
_LISTINGS = 3


@dataclass(frozen=True)
class Traffic:
    """Holds the traffic of a whole job. None: it cannot be derived from the profile.

    Args:
        source_bytes, source_gets: read from the source; HEADs and listings count as GETs.
        moved_bytes: from each stage to the next one.
        output_bytes: of the units' files; output_puts, output_gets: of these and of the shards' sums.
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
    """Estimate a job of so many requests whose units are like those of the profile."""
    footers, manifest = profile.everything, profile.manifest
    rows = float(sum(footer.totals.rows for footer in footers))
    scale = requests / rows
    units = math.ceil(len(footers) * scale)
    source = source_of(manifest.configuration)
    source_bytes, gets = source.store_reads(_read_totals(footers, folder, storage))
    sizes = sum(
        file.size for file in list_files(f"{folder}/data", storage) if Unit.of_file(name_of(file.uri))
    )
    moved = moved_bytes(footers, manifest)
    shards = math.ceil(_shards(footers) * scale)
    return Traffic(
        requests=requests,
        units=units,
        source_bytes=source_bytes * scale,
        source_gets=None if gets is None else math.ceil(gets * scale),
        moved_bytes={stage: None if size is None else size * scale for stage, size in moved.items()},
        output_bytes=sizes * scale,
        output_puts=units + 2 * shards,
        output_gets=units + 4 * shards + _LISTINGS * math.ceil(units / _PAGE),
    )


def moved_bytes(footers: Iterable[Footer], manifest: Manifest) -> dict[str, float | None]:
    """Sum the bytes that units carried from each stage to the next: images, their pixels, the kept tokens."""
    footers = list(footers)
    images = sum(footer.image_bytes or 0 for footer in footers)
    samples = sum(footer.totals.samples for footer in footers)
    rows = sum(footer.totals.rows for footer in footers)
    tokens = sum(footer.totals.tokens["visual_tokens_kept"] for footer in footers)
    shape = shape_of(manifest)
    if shape is None:
        return {"read": images, "decode": None, "encode": None}
    token_bytes = shape.token_bytes(manifest.configuration["model"]["encode_dtype"])
    copies = 1.0 if _reads_request(manifest) else samples / max(1, rows)  # of a request's tokens
    return {
        "read": images,
        "decode": samples * shape.pixel_bytes,
        "encode": tokens * token_bytes * copies,
    }


def _reads_request(manifest: Manifest) -> bool:
    """Tell whether the kept tokens depend on the question, so that each question has other ones."""
    settings = manifest.configuration["reducer"]
    return Arm("profiled", rebuild(settings), settings).reads_request


def _read_totals(footers: Iterable[Footer], folder: str, storage: Storage) -> ReadTotals:
    """Sum the bytes and samples that the units read; a shard counts by the part that was read."""
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
    """Count the shards that were read to their ends."""
    return sum(footer.end for footer in footers)
