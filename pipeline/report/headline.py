"""The first thing to read: what each arm kept, took, cost, and whether it answers as all tokens do."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.support.words import (
    duration,
    interval,
    number,
    of_score,
    percent,
    plain,
    spread,
    times,
    value_of,
)


@dataclass(frozen=True)
class Fact:
    """One figure of the headline, with what explains it in small letters."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Card:
    """One arm in a sentence and a few figures."""

    title: str
    sentence: str
    facts: tuple[Fact, ...]
    is_baseline: bool = False


def cards(figures: Mapping[str, Any]) -> list[Card]:
    """A card an arm: the others first, the baseline last."""
    baseline = figures.get("baseline")
    names = sorted(figures["arms"], key=lambda name: name == baseline)
    return [_card(name, figures) for name in names]


def _card(name: str, figures: Mapping[str, Any]) -> Card:
    arm, pair = figures["arms"][name], figures.get("pairs", {}).get(name)
    facts = [_tokens(arm), _seconds(arm, pair), _money(arm, pair)]
    if pair:
        facts.append(_agreement(pair))
    facts += [_score(arm, pair)] if arm.get("figures") else []
    facts += [] if pair else [_answered(arm)]
    is_baseline = name == figures.get("baseline")
    return Card(name, _sentence(arm, pair, is_baseline), tuple(filter(None, facts)), is_baseline)


def _sentence(arm: Mapping[str, Any], pair: Mapping[str, Any] | None, is_baseline: bool) -> str:
    if is_baseline:
        return "The baseline: what every other arm is measured against."
    kept = kept_fraction(arm)
    tokens = f"{percent(kept)} of the visual tokens" if kept is not None else "its visual tokens"
    if not pair:
        return f"Answered from {tokens}." if kept is not None else "No request was answered."
    agreed, ratio = value_of(pair.get("normalised_agreement")), value_of(pair.get("seconds_ratio"))
    told = f"From {tokens}"
    if ratio is not None:
        told += f" and in {times(ratio)} the time of {pair['against']}"
    return told + (f": the same answer to {percent(agreed)} of the requests." if agreed is not None else ".")


def kept_fraction(arm: Mapping[str, Any]) -> float | None:
    """Mean visual tokens kept by those there are; None if nothing was answered."""
    full, kept = value_of(arm["tokens"].get("visual_tokens_full")), mean(arm, "tokens", "visual_tokens_kept")
    value = value_of(kept)
    return value / full if full and value is not None else None


def mean(arm: Mapping[str, Any], group: str, name: str) -> Any:
    """The mean of one of an arm's quantities, with its interval if it has one; None if it has none."""
    return ((arm.get(group) or {}).get(name) or {}).get("mean")


def _tokens(arm: Mapping[str, Any]) -> Fact | None:
    kept, full = mean(arm, "tokens", "visual_tokens_kept"), value_of(arm["tokens"].get("visual_tokens_full"))
    if value_of(kept) is None:
        return None
    limits = arm["tokens"]["visual_tokens_kept"]
    ends = limits.get("p5"), limits.get("p95")
    same = (
        "every request the same"
        if ends[0] == ends[1]
        else f"90 % of requests: {_round(ends[0])} to {_round(ends[1])}"
    )
    return Fact("visual tokens kept", f"{plain(kept, _round)} of {_round(full or 0)}", same)


def _round(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(arm: Mapping[str, Any], pair: Mapping[str, Any] | None) -> Fact | None:
    total = mean(arm, "seconds", "total_s")
    if value_of(total) is None:
        return None
    return Fact("time a request", plain(total, duration), _ratio(pair, "seconds_ratio") or _per_second(arm))


def _per_second(arm: Mapping[str, Any]) -> str:
    rate = value_of(arm.get("requests_per_s"))
    return "" if rate is None else f"{number(rate)} requests a second"


def _ratio(pair: Mapping[str, Any] | None, name: str) -> str:
    ratio = (pair or {}).get(name)
    if pair is None or value_of(ratio) is None:
        return ""
    limits = interval(ratio, times)
    return f"{plain(ratio, times)} {pair['against']}" + (f" ({limits})" if limits else "")


def _money(arm: Mapping[str, Any], pair: Mapping[str, Any] | None) -> Fact | None:
    cost = arm.get("cost") or {}
    if value_of(cost.get("per_million")) is None:
        return None
    value = f"{plain(cost['per_million'])} {cost.get('currency', '')}".strip()
    return Fact("cost of a million requests", value, _ratio(pair, "cost_ratio") or cost.get("hardware") or "")


def _agreement(pair: Mapping[str, Any]) -> Fact:
    same = pair.get("normalised_agreement")
    exact = plain(pair.get("exact_agreement"), percent)
    return Fact(f"same answer as {pair['against']}", plain(same, percent), f"letter for letter: {exact}")


def main_figure(arm: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The first of an arm's scores by its dataset's rules, if it was scored."""
    return next(iter(((arm.get("figures") or {}).get("figures") or {}).items()), None)


def _score(arm: Mapping[str, Any], pair: Mapping[str, Any] | None) -> Fact | None:
    found = main_figure(arm)
    if found is None:
        return None
    difference = (pair or {}).get("score_difference")
    show, show_difference = of_score(found[1])
    told = value_of(difference) is not None
    detail = spread(difference, show_difference) if told else interval(found[1], show)
    return Fact(found[0].replace("_", " "), plain(found[1], show), detail)


def _answered(arm: Mapping[str, Any]) -> Fact:
    status = arm.get("status") or {}
    total, ok = sum(status.values()), status.get("ok", 0)
    lost = "every request" if ok == total else f"{total - ok:,} without an answer"
    return Fact("requests answered", f"{ok:,} of {total:,}", lost)


def reducer_names(arms: Mapping[str, Any]) -> dict[str, str]:
    """What each arm's reducer is called: its class, with what is switched on if others differ in that.

    Arms that differ in numbers alone, as those of a sweep do, have one name.
    """
    settings = {name: arm.get("reducer") or name for name, arm in arms.items()}
    classes = {name: _class(own) for name, own in settings.items()}
    switches = {name: _switched_on(own) for name, own in settings.items()}
    found = {}
    for name, kind in classes.items():
        alike = {switches[other] for other in classes if classes[other] == kind}
        found[name] = " ".join([kind, *switches[name]]) if len(alike) > 1 else kind
    return found


def _class(settings: Mapping[str, Any] | str) -> str:
    if isinstance(settings, str):
        return settings
    return str(settings.get("_target_") or settings.get("name") or "?").rpartition(".")[2]


def _switched_on(settings: Mapping[str, Any] | str) -> tuple[str, ...]:
    if isinstance(settings, str):
        return ()
    return tuple(name for name, value in sorted(settings.items()) if value is True)
