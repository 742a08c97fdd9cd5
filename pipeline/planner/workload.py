"""Describes what a job asks of its stations: units, shards, names to list, requests to the store.

What no key gives is as in the profile.
"""

import math
from dataclasses import dataclass

from pipeline.output.opened import source_of
from pipeline.planner.fleet_options import FleetOptions
from pipeline.planner.profile import Profile
from pipeline.planner.traffic import Traffic
from pipeline.sources.images import Images
from pipeline.sources.webdataset import WebDataset

_TAR_IMAGES = 10_000  # of a tar, if the profile's source has no large files


@dataclass(frozen=True)
class Workload:
    """Holds the numbers of a whole job.

    Args:
        layout: of the source: `tars` are any large files, `files` single images, `inventory` single images
            that a table names.
        listed: names in the listing of the source.
        source_gets: GETs and HEADs that read it; None: unknown.
    """

    requests: int
    images: float
    units: int
    shards: int
    layout: str
    listed: int
    source_gets: float | None

    @property
    def requests_per_unit(self) -> float:
        """The mean number of requests of a unit."""
        return self.requests / self.units


def workload_of(options: FleetOptions, requests: int, profile: Profile, traffic: Traffic) -> Workload:
    """Work out the numbers of a job of so many requests.

    Args:
        traffic: of the job, as the profile has it.
    """
    form = _SourceForm.of(profile, traffic)
    layout = options.layout or form.layout
    image_requests = options.image_requests or form.image_requests
    images = requests / image_requests
    shard_requests = options.shard_requests or form.shard_images(layout) * image_requests
    shard_requests = min(float(requests), shard_requests)
    shards = math.ceil(requests / shard_requests)
    units = math.ceil(requests / profile.requests_per_unit)
    if options.requests_per_unit is not None:
        units = shards * math.ceil(shard_requests / options.requests_per_unit)
    gets: float | None = images * form.image_files
    if (options.layout, options.image_requests, options.shard_requests) == (None, None, None):
        gets = traffic.source_gets
    elif layout == "tars":
        gets = shards * (2.0 + math.ceil(images / shards * form.image_bytes / form.read_bytes))
    return Workload(
        requests=requests,
        images=images,
        units=max(units, shards),
        shards=shards,
        layout=layout,
        listed=shards if layout == "tars" else math.ceil(images * form.image_files),
        source_gets=gets,
    )


@dataclass(frozen=True)
class _SourceForm:
    """Holds the form of the profile's source: `image_files` is of an image with its sidecars."""

    layout: str
    image_requests: float
    image_files: float
    image_bytes: float
    images_a_shard: float
    read_bytes: int

    @staticmethod
    def of(profile: Profile, traffic: Traffic) -> "_SourceForm":
        source = source_of(profile.manifest.configuration)
        rows = sum(footer.totals.rows for footer in profile.everything)
        samples = sum(footer.samples for footer in profile.everything)
        whole = sum(footer.end for footer in profile.everything)
        layout, image_files, shard_images = "tars", 1.0, samples / max(1, whole)
        if isinstance(source, Images):
            is_listed = profile.manifest.configuration["source"].get("listing") is None
            layout = "files" if is_listed else "inventory"
            image_files = (traffic.source_gets or 0.0) * rows / samples / traffic.requests
            shard_images = float(source.slice_files)
        return _SourceForm(
            layout=layout,
            image_requests=rows / samples,
            image_files=image_files,
            image_bytes=sum(footer.image_bytes or 0 for footer in profile.everything) / samples,
            images_a_shard=shard_images,
            read_bytes=source.read_bytes if isinstance(source, WebDataset) else WebDataset.read_bytes,
        )

    def shard_images(self, layout: str) -> float:
        """Return the images of a shard; those of a usual one if the profile's source has another layout."""
        if (layout == "tars") == (self.layout == "tars"):
            return self.images_a_shard
        return float(_TAR_IMAGES if layout == "tars" else Images.slice_files)
