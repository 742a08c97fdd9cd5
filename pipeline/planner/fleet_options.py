"""Configures the forecast of a whole job on many GPUs, in slices."""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.support.fields import free, require

LAYOUTS = ("tars", "files", "inventory")
_POSITIVE = ("gpu_requests_per_s", "requests_per_unit", "shard_requests", "image_requests")
_NOT_NEGATIVE = ("gpu_hour_price", "put_price", "get_price", "list_price", "start_s")


@dataclass(frozen=True, kw_only=True)
class FleetOptions:
    """Configures the whole job. None: as in the profile, or as the module of the station says.

    Args:
        gpus: how many GPUs, each a row of the table; none: no table.
        gpu_requests_per_s, start_s: rate of one GPU, and seconds until its model is loaded.
        slices: how many parts of the plan are made by runs of their own.
        requests_per_unit, shard_requests, image_requests: of a unit, of a shard, about an image.
        layout: of the source, one of LAYOUTS.
        source_prefixes: prefixes of the store among which the source's names are spread.
        gpu_hour_price: of one GPU; put_price, get_price, list_price: of a thousand requests to the store;
            None: they are not charged.
    """

    gpus: list[int] = free(default_factory=lambda: [8, 64, 512])
    gpu_requests_per_s: float | None = free(None)
    start_s: float | None = free(None)
    slices: int | None = free(None)
    requests_per_unit: float | None = free(None)
    layout: str | None = free(None)
    shard_requests: float | None = free(None)
    image_requests: float | None = free(None)
    source_prefixes: int = free(1)
    gpu_hour_price: float | None = free(None)
    put_price: float | None = free(None)
    get_price: float | None = free(None)
    list_price: float | None = free(None)

    def __post_init__(self) -> None:
        def given(names: tuple[str, ...]) -> dict[str, Any]:
            return {name: value for name in names if (value := getattr(self, name)) is not None}

        require(all(number >= 1 for number in self.gpus), "gpus must be at least 1 each: [8, 64, 512]")
        require(self.slices is None or self.slices >= 1, "slices must be at least 1")
        require(self.source_prefixes >= 1, "source_prefixes must be at least 1")
        require(
            self.layout is None or self.layout in LAYOUTS,
            f"layout: {self.layout!r} is none of {', '.join(LAYOUTS)}",
        )
        for name, value in given(_POSITIVE).items():
            require(0 < value < math.inf, f"{name} must be above 0")
        for name, value in given(_NOT_NEGATIVE).items():
            require(0 <= value < math.inf, f"{name} must not be negative")
