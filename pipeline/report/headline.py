"""Makes the report's headline: what each arm kept, took, cost, and whether it answers as all tokens do."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.compare.agreement import AGREEMENTS, SAME_ANSWER
from pipeline.compare.comparison import ArmFigures, Comparison, PairFigures
from pipeline.support.intervals import Interval
from pipeline.support.words import (
    duration,
    figure_text,
    interval_text,
    number,
    percent,
    score_formats,
    times,
    value_of,
    value_text,
)


@dataclass(frozen=True)
class Fact:
    """Holds one figure of the headline, with its explanation in small letters."""

    label: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Card:
    """Holds one arm's headline: a sentence and a few figures."""

    title: str
    sentence: str
    facts: tuple[Fact, ...]
    is_baseline: bool = False


def cards(comparison: Comparison) -> list[Card]:
    """Make a card for each arm, the baseline's last."""
    names = sorted(comparison.arms, key=lambda name: name == comparison.baseline)
    return [_card(name, comparison) for name in names]


def _card(name: str, comparison: Comparison) -> Card:
    arm, pair = comparison.arms[name], comparison.pairs.get(name)
    is_baseline = name == comparison.baseline
    sentence = (
        "The baseline: what every other arm is measured against." if is_baseline else _sentence(arm, pair)
    )
    return Card(name, sentence, tuple(_facts(arm, pair)), is_baseline)


def _sentence(arm: ArmFigures, pair: PairFigures | None) -> str:
    kept = kept_fraction(arm)
    tokens = f"{percent(kept)} of the visual tokens" if kept is not None else "its visual tokens"
    if not pair:
        return f"Answered from {tokens}." if kept is not None else "No request was answered."
    same, ratio = value_of(getattr(pair, SAME_ANSWER)), value_of(pair.seconds_ratio)
    sentence = f"From {tokens}"
    if ratio is not None:
        sentence += f" and in {times(ratio)} the time of {pair.against}"
    return sentence + (f": the same answer to {percent(same)} of the requests." if same is not None else ".")


def kept_fraction(arm: ArmFigures) -> float | None:
    """Divide mean visual tokens kept by all visual tokens; None if nothing was answered."""
    full, kept = arm.tokens.visual_tokens_full, value_of(arm.tokens.visual_tokens_kept.mean)
    return kept / full if full and kept is not None else None


def _facts(arm: ArmFigures, pair: PairFigures | None) -> Iterator[Fact]:
    yield from _tokens(arm)
    yield from _seconds(arm, pair)
    yield from _money(arm, pair)
    if pair:
        yield _agreement(pair)
    yield from _score(arm, pair)
    if not pair:
        yield _answered(arm)


def _tokens(arm: ArmFigures) -> Iterator[Fact]:
    kept = arm.tokens.visual_tokens_kept
    if kept.mean is None:
        return
    detail = "every request the same"
    if kept.p5 is not None and kept.p95 is not None and kept.p5 != kept.p95:
        detail = f"90 % of requests: {_whole(kept.p5)} to {_whole(kept.p95)}"
    full = _whole(arm.tokens.visual_tokens_full or 0)
    yield Fact("visual tokens kept", f"{value_text(kept.mean, _whole)} of {full}", detail)


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _seconds(arm: ArmFigures, pair: PairFigures | None) -> Iterator[Fact]:
    total = arm.seconds.total_s.mean
    if total is None:
        return
    rate = arm.requests_per_s
    detail = _against(pair, pair.seconds_ratio) if pair else ""
    if not detail and rate:
        detail = f"{number(rate['value'])} requests a second"
    yield Fact("time a request", value_text(total, duration), detail)


def _against(pair: PairFigures, ratio: Interval | None) -> str:
    if ratio is None:
        return ""
    limits = interval_text(ratio, times)
    return f"{value_text(ratio, times)} {pair.against}" + (f" ({limits})" if limits else "")


def _money(arm: ArmFigures, pair: PairFigures | None) -> Iterator[Fact]:
    if arm.cost is None or arm.cost.per_million is None:
        return
    value = f"{value_text(arm.cost.per_million)} {arm.cost.currency}".strip()
    detail = _against(pair, pair.cost_ratio) if pair else ""
    yield Fact("cost of a million requests", value, detail or arm.cost.hardware)


def _agreement(pair: PairFigures) -> Fact:
    same, exact = (value_text(getattr(pair, name), percent) for name in (SAME_ANSWER, "exact_agreement"))
    title = f"{AGREEMENTS[SAME_ANSWER]} as {pair.against}"
    return Fact(title, same, f"{AGREEMENTS['exact_agreement']}: {exact}")


def _score(arm: ArmFigures, pair: PairFigures | None) -> Iterator[Fact]:
    """Make a fact of an arm's first score, which is the dataset's main one."""
    for name, score in list(arm.scores.items())[:1]:
        score_format, difference_format = score_formats(score)
        difference = pair.score_difference if pair else None
        detail = (
            figure_text(difference, difference_format) if difference else interval_text(score, score_format)
        )
        yield Fact(name.replace("_", " "), value_text(score, score_format), detail)


def _answered(arm: ArmFigures) -> Fact:
    total, ok = sum(arm.status.values()), arm.status.get("ok", 0)
    detail = "every request" if ok == total else f"{total - ok:,} without an answer"
    return Fact("requests answered", f"{ok:,} of {total:,}", detail)


def reducer_labels(arms: Mapping[str, ArmFigures]) -> dict[str, str]:
    """Label each arm's reducer: its class, with the switches that are on if others differ in them.

    Arms that differ only in numbers, as those of a sweep, have the same label.
    """
    settings = {name: arm.reducer or name for name, arm in arms.items()}
    classes = {name: _class(of_arm) for name, of_arm in settings.items()}
    switches = {name: _switched_on(of_arm) for name, of_arm in settings.items()}
    labels = {}
    for name, kind in classes.items():
        alike = {switches[other] for other in classes if classes[other] == kind}
        labels[name] = " ".join([kind, *switches[name]]) if len(alike) > 1 else kind
    return labels


def _class(settings: Mapping[str, object] | str) -> str:
    if isinstance(settings, str):
        return settings
    return str(settings.get("_target_") or settings.get("name") or "?").rpartition(".")[2]


def _switched_on(settings: Mapping[str, object] | str) -> tuple[str, ...]:
    if isinstance(settings, str):
        return ()
    return tuple(name for name, value in sorted(settings.items()) if value is True)
