"""All figures of a report as tables of texts, for the page and for terminals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.report.choose import Example
from pipeline.report.headline import mean, reducer_names
from pipeline.support.words import (
    DASH,
    duration,
    number,
    of_score,
    percent,
    plain,
    size,
    spread,
    times,
)

_STAGES = (
    ("decode the image", "image_decode_s"),
    ("encode", "encode_s"),
    ("reduce", "reduce_s"),
    ("prefill", "prefill_s"),
    ("decode", "decode_s"),
    ("all", "total_s"),
)
_WORST = 10

Arms = Mapping[str, Mapping[str, Any]]
Columns = Mapping[str, Callable[[Mapping[str, Any]], str]]


@dataclass(frozen=True)
class Grid:
    """A table of texts. `prose`: its columns are read, not compared, and stand to the left."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    prose: bool = False


def figure_tables(figures: Mapping[str, Any]) -> list[Grid]:
    """The tables of figures that there are; those without a row are left out."""
    arms, pairs = figures["arms"], figures.get("pairs") or {}
    found = [
        _tokens(arms),
        _rates(arms),
        _stages(arms),
        _pairs(pairs),
        _scores(arms),
        _differences(pairs, arms),
        _memory(arms),
        _made(arms),
    ]
    return [table for table in found if table.rows]


def _tokens(arms: Arms) -> Grid:
    columns: Columns = {
        "visual tokens kept": lambda arm: spread(mean(arm, "tokens", "visual_tokens_kept")),
        "p5 / p50 / p95": _percentiles,
        "prompt tokens": lambda arm: plain(mean(arm, "tokens", "prompt_tokens")),
        "generated tokens": lambda arm: plain(mean(arm, "tokens", "generated_tokens")),
        "KV cache": lambda arm: plain((arm.get("kv_cache_bytes") or {}).get("mean"), size),
        "moved between stages": lambda arm: plain((arm.get("moved_bytes") or {}).get("mean"), size),
    }
    return _by_arm("Tokens a request", arms, columns, "Means over answered requests, with 95 % intervals.")


def _rates(arms: Arms) -> Grid:
    columns: Columns = {
        "requests a second": lambda arm: spread(arm.get("requests_per_s")),
        "with work shared": lambda arm: plain(arm.get("shared_requests_per_s")),
        "cost of a million": lambda arm: _money(arm, "per_million"),
        "with its work shared": lambda arm: _money(arm, "shared_per_million"),
        "start-up, once": lambda arm: _money(arm, "startup_cost"),
    }
    note = "As if each arm ran alone; with work shared: as the arms ran together, common stages paid once."
    return _by_arm("Throughput and cost", arms, columns, note)


def _percentiles(arm: Mapping[str, Any]) -> str:
    kept = arm["tokens"].get("visual_tokens_kept") or {}
    return " / ".join(number(kept[name]) for name in ("p5", "p50", "p95")) if "p5" in kept else DASH


def _money(arm: Mapping[str, Any], name: str) -> str:
    cost = arm.get("cost") or {}
    text = spread(cost.get(name))
    return text if text == DASH else f"{text} {cost.get('currency', '')}".rstrip()


def _stages(arms: Arms) -> Grid:
    def column(name: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda arm: spread(mean(arm, "seconds", name), duration)

    note = "A request's share of each stage, as if its arm ran alone."
    return _by_arm("Time a request, by stage", arms, {title: column(name) for title, name in _STAGES}, note)


def _pairs(pairs: Arms) -> Grid:
    def column(name: str, show: Callable[[float], str]) -> Callable[[Mapping[str, Any]], str]:
        return lambda pair: spread(pair.get(name), show)

    columns = {
        "same answer": column("normalised_agreement", percent),
        "letter for letter": column("exact_agreement", percent),
        "ROUGE-L": column("rouge_l", number),
        "chrF": column("chrf", number),
        "tokens": column("tokens_ratio", times),
        "time": column("seconds_ratio", times),
        "cost": column("cost_ratio", times),
    }
    against = next((str(pair["against"]) for pair in pairs.values()), "")
    return _by_arm(f"Against {against}", pairs, columns, "Over the same requests, with 95 % intervals.")


def _mcnemar(pair: Mapping[str, Any]) -> str:
    test = pair.get("mcnemar")
    return DASH if test is None else f"{test['p']:.3g}"


def _scores(arms: Arms) -> Grid:
    def column(metric: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda arm: _score(_scored(arm).get(metric))

    names = dict.fromkeys(metric for arm in arms.values() for metric in _scored(arm))
    columns = {metric.replace("_", " "): column(metric) for metric in names}
    return _by_arm("Scores", arms, columns, "By the dataset's own rules; an unanswered request is wrong.")


def _scored(arm: Mapping[str, Any]) -> Mapping[str, Any]:
    return (arm.get("figures") or {}).get("figures") or {}


def _score(figure: Any) -> str:
    return spread(figure, of_score(figure)[0])


def _differences(pairs: Arms, arms: Arms) -> Grid:
    def column(metric: str, against: str) -> Callable[[Mapping[str, Any]], str]:
        show = of_score(_scored(arms[against]).get(metric))[1]
        return lambda pair: spread((pair.get("figure_differences") or {}).get(metric), show)

    names = {
        metric: str(pair["against"])
        for pair in pairs.values()
        for metric in pair.get("figure_differences") or {}
    }
    columns = {metric.replace("_", " "): column(metric, against) for metric, against in names.items()}
    columns["McNemar's p"] = _mcnemar
    title = f"Scores against {next((str(pair['against']) for pair in pairs.values()), '')}"
    return _by_arm(title, pairs, columns, "Differences over the same requests, with paired 95 % intervals.")


def _memory(arms: Arms) -> Grid:
    columns = _peaks(arms, "peak_memory_bytes", "") | _peaks(arms, "peak_gpu_memory_bytes", " (GPU)")
    note = "Resident memory of each stage's process at its highest, shared memory included."
    return _by_arm("Peak memory", arms, columns, note)


def _peaks(arms: Arms, key: str, suffix: str) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    stages = dict.fromkeys(stage for arm in arms.values() for stage in arm.get(key) or {})

    def column(stage: str) -> Callable[[Mapping[str, Any]], str]:
        return lambda arm: plain((arm.get(key) or {}).get(stage), size)

    return {f"{stage}{suffix}": column(stage) for stage in stages}


def _made(arms: Arms) -> Grid:
    reducers = reducer_names(arms)
    rows = [
        (
            name,
            reducers[name],
            *(str(arm.get(key) or DASH) for key in ("model", "engine", "run_id")),
            _short(arm),
        )
        for name, arm in arms.items()
    ]
    return Grid("Made with", ("arm", "reducer", "model", "engine", "run", "fingerprint"), rows, prose=True)


def _short(arm: Mapping[str, Any]) -> str:
    return str(arm.get("fingerprint") or DASH)[:16]


def _by_arm(title: str, arms: Arms, columns: Columns, note: str) -> Grid:
    """A row an arm; a column of which no arm knows anything is left out."""
    cells = {column: [show(arm) for arm in arms.values()] for column, show in columns.items()}
    told = {column: texts for column, texts in cells.items() if any(text != DASH for text in texts)}
    rows = (
        [(name, *row) for name, row in zip(arms, zip(*told.values(), strict=True), strict=True)]
        if told
        else []
    )
    return Grid(title, ("arm", *told), rows, note)


def status_table(figures: Mapping[str, Any]) -> Grid:
    """Requests by status, an arm a row."""
    arms = figures["arms"]
    names = list(
        dict.fromkeys(["ok", *(status for arm in arms.values() for status in arm.get("status") or {})])
    )
    rows = [
        (name, *(f"{(arm.get('status') or {}).get(status, 0):,}" for status in names))
        for name, arm in arms.items()
    ]
    return Grid("Requests by status", ("arm", *names), rows)


def failure_tables(examples: Mapping[tuple[str, str], Iterable[Example]]) -> list[Grid]:
    """The first failures of each status and arm."""
    by_status: dict[str, list[tuple[str, ...]]] = {}
    for (arm, status), found in sorted(examples.items()):
        rows = [(arm, one.key, one.sample_key, _line(one.question), _line(one.error)) for one in found]
        by_status.setdefault(status, []).extend(rows)
    columns = ("arm", "key", "sample", "question", "error")
    return [Grid(status, columns, rows, prose=True) for status, rows in by_status.items()]


def worst_tables(pairs: Arms) -> list[Grid]:
    """Of each arm, the answers that are least like the baseline's."""
    found = []
    for name, pair in pairs.items():
        against = str(pair["against"])
        rows = [
            (
                str(one.get("key", "")),
                _line(one.get("question")),
                _line(one.get("baseline")),
                _line(one.get("prediction")),
                plain(one.get("rouge_l")),
            )
            for one in (pair.get("worst") or [])[:_WORST]
        ]
        columns = ("key", "question", against, name, "ROUGE-L")
        found += [Grid(f"{name} against {against}", columns, rows, prose=True)] if rows else []
    return found


def _line(text: Any, most: int = 300) -> str:
    told = " ".join(str("" if text is None else text).split())
    return told if len(told) <= most else f"{told[: most - 1]}…"
