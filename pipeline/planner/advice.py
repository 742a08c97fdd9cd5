"""Says what to change in a whole job where its source, or the drivers of its slices, hold it up."""

import math
from collections.abc import Iterator

from pipeline.planner import station_costs as costs
from pipeline.planner.fleet import GETS
from pipeline.planner.fleet_forecast import CALM, FleetForecast, WholeJob


def changes(job: WholeJob) -> Iterator[str]:
    """Say what to change where the source binds, or a driver is busy for more than half of the time."""
    for forecast in job.forecasts:
        run = forecast.run
        yield from _of_source(forecast, job.work.layout)
        if run.driver_busy <= CALM:
            continue
        ways = []
        if forecast.calm_slices > run.slices:
            most = math.ceil(forecast.gpus / forecast.calm_slices)
            ways.append(f"slice=i/{forecast.calm_slices} ({most} GPUs each at the most)")
        if forecast.calm_unit <= costs.LARGEST_UNIT.value:
            keys = "unit_samples, unit_requests, unit_bytes"
            ways.append(f"units of {forecast.calm_unit:,} requests ({keys})")
        measured = costs.DRIVER_UNIT_S[-1][0]
        basis = f", an estimate beyond {measured} actors" if forecast.actors > measured else ""
        yield (
            f"{forecast.label}: a driver is busy for {run.driver_busy:.0%} of the units' time, with "
            f"{1000 * run.driver_unit_s:.3g} ms for each{basis}; half of the time at least is left by "
            f"{' or '.join(ways) or 'larger units'}"
        )


def _of_source(forecast: FleetForecast, layout: str) -> Iterator[str]:
    """Say how the source would be listed or read with fewer requests, if one of these binds."""
    inventory = ", or an inventory (source.listing), which is read faster than listed"
    ways = {
        "listing": f"larger files (tars){'' if layout == 'inventory' else inventory}",
        GETS: "larger files (tars), or more prefixes (source_prefixes says how many there are)",
    }
    if forecast.run.bound in ways:
        yield f"{forecast.label}: {forecast.run.bound}: {ways[forecast.run.bound]} take less"
