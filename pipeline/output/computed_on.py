"""Tells on which devices an output's rows were answered: different ones round differently."""

from collections.abc import Iterator, Mapping

from pipeline.output.footers import Visit

UNKNOWN = "unknown"  # of units that an earlier release wrote


def computed_on(stages: Mapping[str, Visit]) -> str:
    """Name the device of a unit's answers, as in `NVIDIA H100`; and CLIP's, if it is another one."""
    generate, encode = (stages[stage].device if stage in stages else None for stage in ("generate", "encode"))
    if generate is None:
        return UNKNOWN
    return generate if encode in (None, generate) else f"{generate} with CLIP on {encode}"


def mixture_lines(rows_by_device: Mapping[str, int] | None) -> Iterator[str]:
    """Say in one line that an output's rows are of several devices; nothing if they are of one."""
    if rows_by_device is None or len(rows_by_device.keys() - {UNKNOWN}) < 2:
        return
    counts = ", ".join(f"{name} ({rows:,} rows)" for name, rows in sorted(rows_by_device.items()))
    yield f"answered on different devices, which round differently: {counts}"
