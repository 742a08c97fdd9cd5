"""Seconds as money."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.compare.machine_time import Provisioned
from pipeline.support.fields import free, require
from pipeline.support.intervals import interval, quotient

MILLION = 1_000_000
_HOUR = 3600.0


@dataclass(frozen=True)
class Pricing:
    """What the hardware costs that a job ran on.

    Args:
        hardware: its name, for the report.
        price_per_hour: of all of it, as long as the job holds it, busy or not.
        currency: ISO 4217's name.
    """

    hardware: str = free()
    price_per_hour: float = free()
    currency: str = free("USD")

    def __post_init__(self) -> None:
        require(bool(self.hardware), "pricing.hardware must not be empty")
        require(0 < self.price_per_hour < float("inf"), "pricing.price_per_hour must be above 0")
        require(bool(self.currency), "pricing.currency must not be empty")


def seconds_per_success(time: Provisioned, busy: np.ndarray, ok: np.ndarray) -> np.ndarray:
    """Provisioned seconds as if alone for each request that was answered: failures are charged to them.

    Args:
        time: of the whole run.
        busy, ok: busy seconds and answered requests, in total and in each resample, [R + 1]. Provisioned
            seconds go with the busy ones at the rate of the whole run.
    """
    if busy[0]:
        return quotient(busy * (time.alone / busy[0]), ok)
    return quotient(np.full(len(ok), time.alone), ok)


def cost_of(time: Provisioned, per_success: np.ndarray, ok: int, pricing: Pricing) -> dict[str, Any]:
    """An arm's cost of a million answers, with its interval, and that of starting once, which is not in it.

    `per_million` is as if the arm had run alone, `shared_per_million` its part of the job as it ran.
    """
    rate = pricing.price_per_hour / _HOUR
    return {
        "currency": pricing.currency,
        "price_per_hour": pricing.price_per_hour,
        "hardware": pricing.hardware,
        "per_million": interval(per_success * rate * MILLION),
        "shared_per_million": time.shared / ok * rate * MILLION if ok else None,
        "startup_seconds": time.startup,
        "startup_cost": time.startup * rate,
    }
