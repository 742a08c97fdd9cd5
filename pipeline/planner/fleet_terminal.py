"""Shows the forecast of a whole job as tables."""

from collections.abc import Iterator

from pipeline.planner import station_costs as costs
from pipeline.planner.advice import changes
from pipeline.planner.fleet_forecast import WholeJob
from pipeline.support.table import Table
from pipeline.support.words import DASH, duration, number, percent

_SERIAL = ("listing", "plan", "start", "units", "sums", "finish")


def fleet_tables(job: WholeJob) -> list[Table]:
    """Make three tables: by the number of GPUs, requests to the store, and the figures that all rests on."""
    return [_by_gpus(job), _requests(job), _costs()]


def _by_gpus(job: WholeJob) -> Table:
    priced = job.prices.gpu_hour is not None
    rows = [
        (
            f"{forecast.gpus:,}",
            forecast.run.slices,
            forecast.hours,
            forecast.gpu_hours,
            *([forecast.money] if priced else []),
            forecast.bound,
            percent(forecast.run.share),
            percent(forecast.run.driver_busy),
            *(forecast.run.spans[name] / 3600 for name in _SERIAL),
        )
        for forecast in job.forecasts
    ]
    columns = ("GPUs", "slices", "hours", "GPU hours", *([job.prices.currency] if priced else []))
    spans = (f"{name} h" for name in _SERIAL)
    return Table(
        f"{job.work.requests:,} requests, from the listing to finish",
        (*columns, "bound by", "of the time", "driver busy", *spans),
        rows,
        (*_about(job), *changes(job), *_waiting(job)),
    )


def _about(job: WholeJob) -> Iterator[str]:
    work = job.work
    source = "in the profile" if job.is_measured else "given, or assumed (no profile has measured it)"
    yield (
        f"a GPU: {job.gpu_requests_per_s:.3g} requests/s and {duration(job.start_s)} to start, as {source}; "
        f"{job.actors_a_gpu:.3g} processes with a model"
    )
    yield (
        f"source: {work.layout}, {work.listed:,} names to list, {work.images:,.0f} images, {work.shards:,} "
        f"shards; {work.units:,} units of {work.requests_per_unit:.3g} requests"
    )
    yield (
        "GPUs are booked during start, units and sums, by the first slice also during listing and plan, and "
        "not during finish"
    )
    if job.prices.gpu_hour is None:
        yield "money: gpu_hour_price=..., and for a thousand requests put_price, get_price, list_price"
        return
    charged = {"PUT": job.prices.put, "GET": job.prices.get, "LIST": job.prices.list}
    free = [name for name, price in charged.items() if price is None]
    told = "".join(f", {price:g} a thousand {name}s" for name, price in charged.items() if price is not None)
    not_charged = f"; not charged: {', '.join(f'{name}s' for name in free)}" if free else ""
    if job.prices.get is not None and work.source_gets is None:
        not_charged += "; GETs of this source are unknown, and not charged"
    yield f"money: {job.prices.gpu_hour:.4g} an hour for each GPU{told}{not_charged}"


def _waiting(job: WholeJob) -> Iterator[str]:
    """Say what it costs if all slices start at once; the longest such row only."""
    worst = max(job.forecasts, key=lambda forecast: forecast.idle_hours)
    if worst.idle_hours >= 1:
        yield (
            f"each slice that starts before there is a plan lists the source: if all {worst.gpus:,} GPUs are "
            f"there at once, {worst.idle_hours:,.0f} more GPU hours are booked"
        )


def _requests(job: WholeJob) -> Table:
    rows = [
        (
            forecast.label,
            number(forecast.requests.puts),
            DASH if forecast.requests.gets is None else number(forecast.requests.gets),
            number(forecast.requests.lists),
            *(
                DASH if count is None else number(count / forecast.run.spans["units"])
                for count in (job.work.units, job.work.source_gets)
            ),
        )
        for forecast in job.forecasts
    ]
    columns = ("", "PUTs", "GETs and HEADs", "LISTs", "PUTs/s", "source GETs/s")
    notes = (
        f"at the most {costs.PUTS_S.value:,.0f} PUTs/s and {costs.GETS_S.value:,.0f} GETs/s of one prefix "
        "(Amazon S3, documented); source_prefixes says among how many the source is spread",
    )
    return Table("requests to the store", columns, rows, notes)


def _costs() -> Table:
    rows = [
        (name, f"{number(cost.value)} {cost.unit}", cost.basis, cost.source)
        for name, cost in costs.known_costs().items()
    ]
    return Table(
        "what the stations of the whole job cost",
        ("", "value", "", "what it is, and where it is from"),
        rows,
        ("measured: on two CPU cores, not on a cluster; no whole job has been compared with its forecast",),
    )
