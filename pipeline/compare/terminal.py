"""A comparison for terminals: tables, and a summary in words."""

from collections.abc import Iterator
from typing import Any

from pipeline.support.table import Table

_COLUMNS = (
    "arm",
    "answered",
    "tokens kept",
    "of",
    "prefill s",
    "decode s",
    "encode s",
    "reduce s",
    "total s",
)
_AGREEMENTS = ("exact_agreement", "normalised_agreement", "rouge_l", "chrf")
_RATIOS = ("tokens_ratio", "seconds_ratio", "cost_ratio")
_MIB = 1 << 20


def table(found: dict[str, Any]) -> list[Table]:
    """The tables of a comparison, from the content of comparison.json."""
    return [_arms(found), _pairs(found), *_scores(found)]


def _arms(found: dict[str, Any]) -> Table:
    arms = found["arms"]
    costs = [arm["cost"] for arm in arms.values() if arm["cost"]]
    price = (f"{costs[0]['currency']} a million",) if costs else ()
    columns = (*_COLUMNS, "requests/s", "KV MiB", *price)
    rows = []
    for name, arm in arms.items():
        tokens, seconds = arm["tokens"], arm["seconds"]
        row = [name, arm["status"].get("ok", 0), _value(tokens["visual_tokens_kept"]["mean"])]
        row.append(_cell(tokens["visual_tokens_full"]))
        row += [_value(seconds[stage]["mean"]) for stage in ("prefill_s", "decode_s", "encode_s", "reduce_s")]
        row += [_value(seconds["total_s"]["mean"]), _value(arm["requests_per_s"])]
        row.append(arm["kv_cache_bytes"]["mean"] / _MIB if arm["kv_cache_bytes"] else "")
        row += [_value(arm["cost"]["per_million"])] if costs else []
        rows.append(tuple(row))
    title = f"{found['requests']:,} requests under {len(arms)} arms; each answered request, as if alone"
    return Table(title, columns, rows)


def _pairs(found: dict[str, Any]) -> Table:
    rows = []
    for name, pair in found["pairs"].items():
        for figure in (*_AGREEMENTS, *_RATIOS):
            rows.append((f"{name}: {figure.replace('_', ' ')}", *_spread(pair[figure])))
        if pair["score_difference"]:
            rows.append((f"{name}: score difference", *_spread(pair["score_difference"])))
        if pair["mcnemar"]:
            rows.append((f"{name}: McNemar's p", pair["mcnemar"]["p"], "", ""))
    return Table(f"Against {found['baseline']}", ("", "value", "95 % from", "to"), rows)


def _scores(found: dict[str, Any]) -> Iterator[Table]:
    rows = [
        (f"{name}: {figure}", *_spread(told))
        for name, arm in found["arms"].items()
        if arm["figures"]
        for figure, told in arm["figures"]["figures"].items()
    ]
    if rows:
        yield Table("Against the reference answers", ("", "value", "95 % from", "to"), rows)


def text(found: dict[str, Any]) -> str:
    """What each arm saves and what it costs in quality: a line or two an arm, for people."""
    baseline = found["baseline"]
    lines = [f"{found['requests']:,} requests; {baseline}: {_of_arm(found['arms'][baseline])}."]
    for name, pair in found["pairs"].items():
        lines.append(f"{name}: {_of_arm(found['arms'][name])}.")
        ratios = {"time": pair["seconds_ratio"], "cost": pair["cost_ratio"]}
        told = [f"{what} {_between(ratio)} of {baseline}'s" for what, ratio in ratios.items() if ratio]
        if pair["exact_agreement"]:
            told.append(f"the same answer to {_between(pair['exact_agreement'])} of the requests")
        lines.append(f"  {', '.join(told)}{_of_score(pair)}.")
    return "\n".join([*lines, *found["notes"]]) + "\n"


def _of_arm(arm: dict[str, Any]) -> str:
    answered, rows = arm["status"].get("ok", 0), sum(arm["status"].values())
    kept = arm["tokens"]["visual_tokens_kept"]["mean"]
    parts = (
        [f"{kept['value']:,.1f} of {arm['tokens']['visual_tokens_full']:,.0f} visual tokens"] if kept else []
    )
    if arm["cost"] and arm["cost"]["per_million"]:
        cost = arm["cost"]
        parts.append(f"{cost['per_million']['value']:,.2f} {cost['currency']} a million answers")
    if answered < rows:
        parts.append(f"{rows - answered:,} of {rows:,} failed")
    return ", ".join(parts) or "no request"


def _of_score(pair: dict[str, Any]) -> str:
    difference = pair["score_difference"]
    if not difference:
        return ""
    points = [f"{100 * difference[name]:+.1f}" for name in ("value", "low", "high") if name in difference]
    spread = f" ({points[1]} to {points[2]})" if len(points) > 1 else ""
    p = f", McNemar's p {pair['mcnemar']['p']:.2g}" if pair["mcnemar"] else ""
    return f", score {points[0]} points{spread}{p}"


def _between(figure: dict[str, float]) -> str:
    """A share as per cent with its interval."""
    spread = f" ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})" if "low" in figure else ""
    return f"{100 * figure['value']:.1f} %{spread}"


def _spread(figure: dict[str, float] | None) -> tuple[Any, Any, Any]:
    told = figure or {}
    return told.get("value", ""), told.get("low", ""), told.get("high", "")


def _value(figure: dict[str, float] | None) -> Any:
    return figure["value"] if figure else ""


def _cell(value: float | None) -> Any:
    return "" if value is None else value
