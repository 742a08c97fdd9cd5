"""Formats figures for people, in reports and on terminals; an unknown figure is a dash."""

from collections.abc import Callable

from pipeline.support.intervals import Interval

DASH = "–"
Value = float | Interval | None  # a figure, with or without its interval
Format = Callable[[float], str]


def number(value: float) -> str:
    """Format counts and large figures in full, others to three digits."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def percent(value: float) -> str:
    """Format a fraction in per cent: 0.2118 is 21.2 %."""
    return f"{100 * value:.1f} %" if value not in (0, 1) else f"{100 * value:.0f} %"


def duration(value: float) -> str:
    """Format seconds; short times in ms or µs."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 1:
            return f"{value * factor:,.3g} {unit}" if abs(value) < 1000 else f"{value:,.0f} s"
    return "0 s" if value == 0 else f"{value * 1e6:.2g} µs"


def size(value: float) -> str:
    """Format bytes in binary multiples."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:,.4g} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.4g} TiB"


def times(value: float) -> str:
    """Format a ratio: 0.45 is 0.45 ×."""
    return f"{value:.2f} ×" if abs(value) < 100 else f"{value:,.0f} ×"


def signed(value: float) -> str:
    """Format a difference of fractions in percentage points."""
    return f"{100 * value:+.1f} pp".replace("-", "−")


def cell_text(cell: object) -> str:
    """Format a cell of a terminal's table: counts in full, measurements to three digits."""
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:#.3g}".rstrip(".")
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def score_formats(figure: Value) -> tuple[Format, Format]:
    """Choose the formats of a score and its differences: per cent for fractions, others unchanged."""
    value = value_of(figure)
    if value is None or 0 <= value <= 1:
        return percent, signed
    return number, lambda difference: f"{difference:+.3g}".replace("-", "−")


def value_text(figure: Value, show: Format = number) -> str:
    """Format a figure without its interval."""
    value = value_of(figure)
    return DASH if value is None else show(value)


def figure_text(figure: Value, show: Format = number) -> str:
    """Format a figure with its interval, if it has one: 122 (120 to 124)."""
    limits = interval_text(figure, show)
    return f"{value_text(figure, show)} ({limits})" if limits else value_text(figure, show)


def interval_text(figure: Value, show: Format = number) -> str:
    """Format a figure's interval: 120 to 124, 0.4 to 0.5 s; "" if it has none."""
    if not isinstance(figure, dict):
        return ""
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None:
        return ""
    first, last = show(low), show(high)
    unit = last[last.rindex(" ") :] if " " in last else ""
    return f"{first.removesuffix(unit)} to {last}"


def value_of(figure: Value) -> float | None:
    """Return a figure's value, with or without an interval; None if it is not known."""
    return figure.get("value") if isinstance(figure, dict) else figure
