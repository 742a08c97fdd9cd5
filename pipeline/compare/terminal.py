"""Shows a comparison on a terminal: tables, and a summary in words."""

from collections.abc import Iterator

from pipeline.compare.agreement import AGREEMENTS, SAME_ANSWER
from pipeline.compare.comparison import ArmFigures, Comparison, PairFigures
from pipeline.support.intervals import Interval
from pipeline.support.table import Table
from pipeline.support.words import Value, figure_text, number, percent, score_formats, value_of

_STAGES = ("prefill_s", "decode_s", "encode_s", "reduce_s", "total_s")
_COLUMNS = ("arm", "answered", "tokens kept", "of", *(name.replace("_", " ") for name in _STAGES))
_PAIR = {
    **AGREEMENTS,
    "tokens_ratio": "tokens ratio",
    "seconds_ratio": "seconds ratio",
    "cost_ratio": "cost ratio",
}
_INTERVAL = ("", "value", "95 % from", "to")
_MIB = 1 << 20


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Make the tables of a comparison: arms, pairs and, against a dataset, scores."""
    return [_arms(comparison), _pairs(comparison), *_scores(comparison)]


def _arms(comparison: Comparison) -> Table:
    arms = comparison.arms
    currency = next((arm.cost.currency for arm in arms.values() if arm.cost), None)
    price = () if currency is None else (f"{currency} a million",)
    rows = [(name, *_arm_cells(arm), *(_cost_cell(arm) for _ in price)) for name, arm in arms.items()]
    title = f"{comparison.requests:,} requests under {len(arms)} arms; each answered request, as if alone"
    return Table(title, (*_COLUMNS, "requests/s", "KV MiB", *price), rows)


def _arm_cells(arm: ArmFigures) -> Iterator[object]:
    yield arm.status.get("ok", 0)
    yield _cell(arm.tokens.visual_tokens_kept.mean)
    yield _cell(arm.tokens.visual_tokens_full)
    yield from (_cell(getattr(arm.seconds, stage).mean) for stage in _STAGES)
    yield _cell(arm.requests_per_s)
    cached = value_of(arm.kv_cache_bytes.mean) if arm.kv_cache_bytes else None
    yield "" if cached is None else cached / _MIB


def _cost_cell(arm: ArmFigures) -> object:
    return _cell(arm.cost.per_million if arm.cost else None)


def _pairs(comparison: Comparison) -> Table:
    rows: list[tuple[object, ...]] = []
    for name, pair in comparison.pairs.items():
        rows += [
            (f"{name}: {title}", *_interval_cells(getattr(pair, figure))) for figure, title in _PAIR.items()
        ]
        if pair.score_difference:
            rows.append((f"{name}: score difference", *_interval_cells(pair.score_difference)))
        if pair.mcnemar:
            rows.append((f"{name}: McNemar's p", pair.mcnemar.p, "", ""))
    return Table(f"Against {comparison.baseline}", _INTERVAL, rows)


def _scores(comparison: Comparison) -> Iterator[Table]:
    rows = [
        (f"{name}: {metric}", *_interval_cells(score))
        for name, arm in comparison.arms.items()
        for metric, score in arm.scores.items()
    ]
    if rows:
        yield Table("Against the reference answers", _INTERVAL, rows)


def _interval_cells(figure: Interval | None) -> tuple[object, object, object]:
    if figure is None:
        return "", "", ""
    return figure["value"], figure.get("low", ""), figure.get("high", "")


def _cell(figure: Value) -> object:
    value = value_of(figure)
    return "" if value is None else value


def summary_text(comparison: Comparison) -> str:
    """Summarise what each arm saves and what it costs in quality: a line or two an arm."""
    assert comparison.baseline is not None, "a comparison has one"
    baseline = comparison.baseline
    lines = [f"{comparison.requests:,} requests; {baseline}: {_arm_words(comparison.arms[baseline])}."]
    for name, pair in comparison.pairs.items():
        lines.append(f"{name}: {_arm_words(comparison.arms[name])}.")
        lines.append(f"  {', '.join(_pair_words(pair, comparison.arms[baseline]))}.")
    return "\n".join([*lines, *comparison.notes]) + "\n"


def _arm_words(arm: ArmFigures) -> str:
    answered, rows = arm.status.get("ok", 0), sum(arm.status.values())
    kept, full = arm.tokens.visual_tokens_kept.mean, arm.tokens.visual_tokens_full
    parts = []
    if kept and full is not None:
        parts.append(f"{kept['value']:,.1f} of {number(round(full))} visual tokens")
    if arm.cost and arm.cost.per_million:
        parts.append(f"{arm.cost.per_million['value']:,.2f} {arm.cost.currency} a million answers")
    if answered < rows:
        parts.append(f"{rows - answered:,} of {rows:,} failed")
    return ", ".join(parts) or "no request"


def _pair_words(pair: PairFigures, baseline: ArmFigures) -> Iterator[str]:
    for name, ratio in (("time", pair.seconds_ratio), ("cost", pair.cost_ratio)):
        if ratio:
            yield f"{name} {figure_text(ratio, percent)} of {pair.against}'s"
    if same := getattr(pair, SAME_ANSWER):
        yield f"the same answer to {figure_text(same, percent)} of the requests"
    if pair.score_difference:
        _, difference_format = score_formats(next(iter(baseline.scores.values()), None))
        yield f"score {figure_text(pair.score_difference, difference_format)}"
    if pair.mcnemar:
        yield f"McNemar's p {pair.mcnemar.p:.2g}"
