"""Shows a forecast of a job as tables."""

from pipeline.planner.fleet_terminal import fleet_tables
from pipeline.planner.planner import JobForecast
from pipeline.support.table import Table
from pipeline.support.words import DASH, duration, number, percent, size

_LARGER = 4  # times as large units, in the advice


def tables(job: JobForecast) -> list[Table]:
    """Make tables: by the number of workers, the totals, the stages of one worker, and the whole job."""
    whole = fleet_tables(job.whole) if job.whole else []
    return [_by_workers(job), _totals(job), _stations(job), *whole]


def _by_workers(job: JobForecast) -> Table:
    profile, pricing = job.profile, job.pricing
    unit, each = ("GPUs", profile.gpus) if profile.gpus else ("cores", profile.worker.cores)
    rows = [
        (
            number(forecast.workers),
            forecast.workers * each,
            forecast.hours["value"],
            f"{forecast.hours.get('low', forecast.hours['value']):.3g} to "
            f"{forecast.hours.get('high', forecast.hours['value']):.3g}",
            forecast.requests_per_s,
            forecast.bound,
            *([job.money(forecast)] if pricing else []),
        )
        for forecast in job.forecasts
    ]
    money = (pricing.currency,) if pricing else ()
    columns = ("workers", unit, "hours", "95 %", "requests/s", "bound by")
    return Table(f"{job.requests:,} requests", (*columns, *money), rows, (*_about(job), *_advice(job)))


def _about(job: JobForecast) -> tuple[str, ...]:
    profile = job.profile
    gpus = f" and {profile.gpus:g} GPUs" if profile.gpus else ""
    worker = (
        f"a worker: {profile.worker.cores:g} cores{gpus}, as in the profile of "
        f"{profile.requests_V.sum():,.0f} requests in {len(profile.footers)} units that took "
        f"{profile.seconds:,.0f} s",
    )
    if job.pricing is None:
        return (*worker, "money: pricing=custom pricing.hardware='one worker' pricing.price_per_hour=...")
    return (
        *worker,
        f"money: {job.pricing.price_per_hour:g} an hour for each worker ({job.pricing.hardware})",
    )


def _advice(job: JobForecast) -> tuple[str, ...]:
    """Say beyond how many workers the driver is the bottleneck, and how to avoid that."""
    first = job.forecasts[0]
    alone = 1 / (job.driver_unit_s * _units_per_s(job)) if job.driver_unit_s else float("inf")
    if all(forecast.bound != "driver" for forecast in job.forecasts) and first.workers < alone:
        return ()
    return (
        f"the driver takes {duration(job.driver_unit_s)} for each unit of "
        f"{job.profile.requests_per_unit:.0f} requests, and binds from about {alone:,.0f} workers on; "
        f"with units {_LARGER} times as large (unit_samples, unit_requests, unit_bytes) from "
        f"{_LARGER * alone:,.0f}",
    )


def _units_per_s(job: JobForecast) -> float:
    """Show the rate of one worker."""
    return min(job.forecasts, key=lambda forecast: forecast.workers).worker_units_per_s


def _totals(job: JobForecast) -> Table:
    traffic = job.traffic
    moved = {stage: DASH if total is None else size(total) for stage, total in traffic.moved_bytes.items()}
    gets = DASH if traffic.source_gets is None else number(traffic.source_gets)
    rows = [
        ("units, one file each", number(traffic.units)),
        ("read from the source", size(traffic.source_bytes)),
        ("its GETs and HEADs", gets),
        *((f"from {stage} to the next stage", text) for stage, text in moved.items()),
        ("written", size(traffic.output_bytes)),
        ("its PUTs", number(traffic.output_puts)),
        ("its GETs and HEADs, for the sums and the summary", number(traffic.output_gets)),
        ("start-up of each worker", duration(job.startup_s)),
    ]
    return Table("whatever the number of workers", ("", "in all"), rows)


def _stations(job: JobForecast) -> Table:
    profile = job.profile
    busy = max(job.forecasts, key=lambda forecast: -forecast.workers).busy
    rows = [
        (
            station.name,
            str(len(station.ready)),
            duration(float(profile.alone_VS[:, place].mean())),
            f"{station.demand:.2f}",
            *([f"{station.gpu_demand:.2f}"] if profile.gpus else []),
            percent(busy[station.name]),
        )
        for place, station in enumerate(profile.worker.stations)
    ]
    gpus = ("GPUs",) if profile.gpus else ()
    blank = ("",) * len(gpus)
    rows += [("all cores", f"{profile.worker.cores:g}", "", "", *blank, percent(busy["cores"]))]
    if profile.gpus:
        rows += [("all GPUs", f"{profile.gpus}", "", "", "", percent(busy["gpus"]))]
    return Table(
        "a worker in its steady state",
        ("", "at once", "a unit alone", "cores", *gpus, "busy"),
        rows,
        (
            "a unit alone: its seconds if it had all that it wants (columns `cores` and `GPUs`)"
            if gpus
            else "a unit alone: its seconds if it had all the cores that it wants (column `cores`)",
        ),
    )
