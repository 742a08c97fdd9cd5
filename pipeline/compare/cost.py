"""Converts seconds of a machine into money."""

from dataclasses import dataclass

import numpy as np

from pipeline.compare.comparison import Cost
from pipeline.compare.machine_time import Provisioned
from pipeline.support.fields import free, require
from pipeline.support.intervals import Figure, interval, quotient

MILLION = 1_000_000
_HOUR = 3600.0


@dataclass(frozen=True)
class Pricing:
    """Configures the price of the hardware that a job ran on.

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


def seconds_per_success(time: Provisioned, busy: Figure, ok: Figure) -> Figure:
    """Divide an arm's provisioned seconds, as if alone, by its answered requests.

    Failed requests are charged to the answered ones.

    Args:
        time: of the whole run.
        busy, ok: busy seconds and answered requests, in total and in each resample, [R + 1]. Provisioned
            seconds go with the busy ones at the rate of the whole run.
    """
    if busy[0]:
        return quotient(busy * (time.alone / busy[0]), ok)
    return quotient(np.full(len(ok), time.alone), ok)


def cost_of(time: Provisioned, per_success: Figure, ok: int, pricing: Pricing) -> Cost:
    """Compute an arm's cost of a million answers, with its interval, and that of starting once.

    `per_million` is as if the arm had run alone, `shared_per_million` its part of the job as it ran.
    """
    rate = pricing.price_per_hour / _HOUR
    return Cost(
        currency=pricing.currency,
        price_per_hour=pricing.price_per_hour,
        hardware=pricing.hardware,
        per_million=interval(per_success * rate * MILLION),
        shared_per_million=time.shared / ok * rate * MILLION if ok else None,
        startup_seconds=time.startup,
        startup_cost=time.startup * rate,
    )
