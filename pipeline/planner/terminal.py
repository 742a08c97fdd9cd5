"""A plan as tables for people."""

from pipeline.planner.planner import Plan
from pipeline.support.table import Table
from pipeline.support.words import DASH, duration, number, percent, size

_LARGER = 4  # times as large units, in the advice


def tables(plan: Plan) -> list[Table]:
    """By the number of workers; what does not depend on it; how busy the stages of one are."""
    return [_by_workers(plan), _totals(plan), _stations(plan)]


def _by_workers(plan: Plan) -> Table:
    profile, pricing = plan.profile, plan.pricing
    unit, each = ("GPUs", profile.gpus) if profile.gpus else ("cores", profile.worker.cores)
    rows = [
        (
            number(found.workers),
            found.workers * each,
            found.hours["value"],
            f"{found.hours.get('low', found.hours['value']):.3g} to "
            f"{found.hours.get('high', found.hours['value']):.3g}",
            found.requests_per_s,
            found.bound,
            *([plan.money(found)] if pricing else []),
        )
        for found in plan.forecasts
    ]
    money = (pricing.currency,) if pricing else ()
    columns = ("workers", unit, "hours", "95 %", "requests/s", "bound by")
    return Table(f"{plan.requests:,} requests", (*columns, *money), rows, (*_about(plan), *_advice(plan)))


def _about(plan: Plan) -> tuple[str, ...]:
    profile = plan.profile
    gpus = f" and {profile.gpus:g} GPUs" if profile.gpus else ""
    told = (
        f"a worker: {profile.worker.cores:g} cores{gpus}, as in the profile of "
        f"{profile.requests_V.sum():,.0f} requests in {len(profile.footers)} units that took "
        f"{profile.seconds:,.0f} s",
    )
    if plan.pricing is None:
        return (*told, "money: pricing=custom pricing.hardware='one worker' pricing.price_per_hour=...")
    return (
        *told,
        f"money: {plan.pricing.price_per_hour:g} an hour for each worker ({plan.pricing.hardware})",
    )


def _advice(plan: Plan) -> tuple[str, ...]:
    """From how many workers on the driver binds, and what helps."""
    first = plan.forecasts[0]
    alone = 1 / (plan.driver_unit_s * _units_per_s(plan)) if plan.driver_unit_s else float("inf")
    if all(found.bound != "driver" for found in plan.forecasts) and first.workers < alone:
        return ()
    return (
        f"the driver takes {duration(plan.driver_unit_s)} for each unit of "
        f"{plan.profile.requests_per_unit:.0f} requests, and binds from about {alone:,.0f} workers on; "
        f"with units {_LARGER} times as large (unit_samples, unit_requests, unit_bytes) from "
        f"{_LARGER * alone:,.0f}",
    )


def _units_per_s(plan: Plan) -> float:
    """Of one worker."""
    found = min(plan.forecasts, key=lambda found: found.workers)
    return found.worker_units_per_s


def _totals(plan: Plan) -> Table:
    traffic = plan.traffic
    moved = {stage: DASH if total is None else size(total) for stage, total in traffic.moved_bytes.items()}
    gets = DASH if traffic.source_gets is None else number(traffic.source_gets)
    rows = [
        ("units, one file each", number(traffic.units)),
        ("read from the source", size(traffic.source_bytes)),
        ("its GETs and HEADs", gets),
        *((f"from {stage} to the next stage", told) for stage, told in moved.items()),
        ("written", size(traffic.output_bytes)),
        ("its PUTs", number(traffic.output_puts)),
        ("its GETs and HEADs, for the summary", number(traffic.output_gets)),
        ("start-up of each worker", duration(plan.startup_s)),
    ]
    return Table("whatever the number of workers", ("", "in all"), rows)


def _stations(plan: Plan) -> Table:
    profile = plan.profile
    busy = max(plan.forecasts, key=lambda found: -found.workers).busy
    rows = [
        (
            station.name,
            str(len(station.ready)),
            duration(float(profile.alone_VS[:, place].mean())),
            f"{station.demand:.2f}",
            percent(busy[station.name]),
        )
        for place, station in enumerate(profile.worker.stations)
    ]
    rows += [("all cores", f"{profile.worker.cores:g}", "", "", percent(busy["cores"]))]
    return Table(
        "a worker in its steady state",
        ("", "at once", "a unit alone", "cores", "busy"),
        rows,
        ("a unit alone: if it had all the cores that it wants, which is what the column `cores` tells",),
    )
