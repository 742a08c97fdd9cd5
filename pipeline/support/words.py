"""Figures as people read them; what is not known is a dash."""

from collections.abc import Callable, Mapping

DASH = "–"
Figure = Mapping[str, float] | float | int | None


def number(value: float) -> str:
    """Counts and large figures in full, the others to three digits."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-4 else f"{value:.1e}"


def percent(value: float) -> str:
    """A fraction in per cent: 0.2118 is 21.2 %."""
    return f"{100 * value:.1f} %" if value not in (0, 1) else f"{100 * value:.0f} %"


def duration(value: float) -> str:
    """Seconds, in ms or µs where they are few."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if abs(value) * factor >= 1:
            return f"{value * factor:,.3g} {unit}" if abs(value) < 1000 else f"{value:,.0f} s"
    return "0 s" if value == 0 else f"{value * 1e6:.2g} µs"


def size(value: float) -> str:
    """Bytes, in binary multiples."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:,.4g} {unit}" if abs(value) >= 1000 else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:,.4g} TiB"


def times(value: float) -> str:
    """A ratio: 0.45 is 0.45 ×."""
    return f"{value:.2f} ×" if abs(value) < 100 else f"{value:,.0f} ×"


def signed(value: float) -> str:
    """A difference of fractions in percentage points."""
    return f"{100 * value:+.1f} pp".replace("-", "−")


def of_score(figure: Figure) -> tuple[Callable[[float], str], Callable[[float], str]]:
    """How a score and its differences are shown: a fraction in per cent, CIDEr or MME's sums as they are."""
    value = value_of(figure)
    if value is None or 0 <= value <= 1:
        return percent, signed
    return number, lambda difference: f"{difference:+.3g}".replace("-", "−")


def plain(figure: Figure, show: Callable[[float], str] = number) -> str:
    """A figure without its interval."""
    value = value_of(figure)
    return DASH if value is None else show(value)


def spread(figure: Figure, show: Callable[[float], str] = number) -> str:
    """A figure with its interval, if it has one: 122 (120 to 124)."""
    limits = interval(figure, show)
    return f"{plain(figure, show)} ({limits})" if limits else plain(figure, show)


def interval(figure: Figure, show: Callable[[float], str] = number) -> str:
    """A figure's interval: 120 to 124, 0.4 to 0.5 s; "" if it has none."""
    if not isinstance(figure, Mapping):
        return ""
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None:
        return ""
    first, last = show(low), show(high)
    unit = last[last.rindex(" ") :] if " " in last else ""
    return f"{first.removesuffix(unit)} to {last}"


def value_of(figure: Figure) -> float | None:
    """A figure's value, whether or not it has an interval; None if it is not known."""
    return figure.get("value") if isinstance(figure, Mapping) else figure
