"""Makes all figures of a report into tables of texts, for the page and for terminals."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal, TypeVar

from pipeline.compare.agreement import AGREEMENTS, SAME_ANSWER
from pipeline.compare.comparison import ArmFigures, Comparison, Mean, PairFigures, WorstAnswer
from pipeline.report.choose import Example
from pipeline.report.headline import reducer_labels
from pipeline.support.words import (
    DASH,
    Format,
    duration,
    figure_text,
    number,
    percent,
    score_formats,
    size,
    times,
    value_text,
)

_STAGES = {
    "decode the image": "image_decode_s",
    "encode": "encode_s",
    "reduce": "reduce_s",
    "prefill": "prefill_s",
    "decode": "decode_s",
    "all": "total_s",
}
_WORST = 10

Row = TypeVar("Row")
Arms = Mapping[str, ArmFigures]
Pairs = Mapping[str, PairFigures]


@dataclass(frozen=True)
class Grid:
    """Holds a table of texts. `prose`: its columns are sentences, aligned to the left."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""
    prose: bool = False


def figure_tables(comparison: Comparison) -> list[Grid]:
    """Make the tables of figures; those without a row are left out."""
    arms, pairs = comparison.arms, comparison.pairs
    grids = [
        _tokens(arms),
        _rates(arms),
        _stages(arms),
        _pairs(pairs),
        _scores(arms),
        _differences(pairs, arms),
        _memory(arms),
        _made_with(arms),
    ]
    return [grid for grid in grids if grid.rows]


def _column(path: str, show: Format = number) -> Callable[[object], str]:
    """Make a function that formats the figure at an attribute path of a row, with its interval."""
    return lambda row: figure_text(attrgetter(path)(row), show)


def _tokens(arms: Arms) -> Grid:
    columns: dict[str, Callable[[ArmFigures], str]] = {
        "visual tokens kept": _column("tokens.visual_tokens_kept.mean"),
        "p5 / p50 / p95": _percentiles,
        "prompt tokens": lambda arm: value_text(arm.tokens.prompt_tokens.mean),
        "generated tokens": lambda arm: value_text(arm.tokens.generated_tokens.mean),
        "KV cache": lambda arm: _size(arm.kv_cache_bytes),
        "moved between stages": lambda arm: _size(arm.moved_bytes),
    }
    return _grid("Tokens a request", arms, columns, "Means over answered requests, with 95 % intervals.")


def _size(mean: Mean | None) -> str:
    return value_text(mean.mean if mean else None, size)


def _percentiles(arm: ArmFigures) -> str:
    kept = arm.tokens.visual_tokens_kept
    percentiles = [value for value in (kept.p5, kept.p50, kept.p95) if value is not None]
    return " / ".join(map(number, percentiles)) or DASH


def _rates(arms: Arms) -> Grid:
    columns: dict[str, Callable[[ArmFigures], str]] = {
        "requests a second": _column("requests_per_s"),
        "with work shared": lambda arm: value_text(arm.shared_requests_per_s),
        "cost of a million": lambda arm: _money(arm, "per_million"),
        "with its work shared": lambda arm: _money(arm, "shared_per_million"),
        "start-up, once": lambda arm: _money(arm, "startup_cost"),
    }
    note = "As if each arm ran alone; with work shared: as the arms ran together, common stages paid once."
    return _grid("Throughput and cost", arms, columns, note)


def _money(arm: ArmFigures, name: Literal["per_million", "shared_per_million", "startup_cost"]) -> str:
    text = figure_text(getattr(arm.cost, name)) if arm.cost else DASH
    return text if arm.cost is None or text == DASH else f"{text} {arm.cost.currency}".rstrip()


def _stages(arms: Arms) -> Grid:
    columns = {title: _column(f"seconds.{name}.mean", duration) for title, name in _STAGES.items()}
    note = "A request's share of each stage, as if its arm ran alone."
    return _grid("Time a request, by stage", arms, columns, note)


def _pairs(pairs: Pairs) -> Grid:
    columns = {
        AGREEMENTS[SAME_ANSWER]: _column(SAME_ANSWER, percent),
        AGREEMENTS["exact_agreement"]: _column("exact_agreement", percent),
        AGREEMENTS["rouge_l"]: _column("rouge_l"),
        AGREEMENTS["chrf"]: _column("chrf"),
        "tokens": _column("tokens_ratio", times),
        "time": _column("seconds_ratio", times),
        "cost": _column("cost_ratio", times),
    }
    title = f"Against {_baseline(pairs)}"
    return _grid(title, pairs, columns, "Over the same requests, with 95 % intervals.")


def _baseline(pairs: Pairs) -> str:
    return next((pair.against for pair in pairs.values()), "")


def _scores(arms: Arms) -> Grid:
    def column(metric: str) -> Callable[[ArmFigures], str]:
        def cell(arm: ArmFigures) -> str:
            score = arm.scores.get(metric)
            return figure_text(score, score_formats(score)[0])

        return cell

    metrics = dict.fromkeys(metric for arm in arms.values() for metric in arm.scores)
    columns = {metric.replace("_", " "): column(metric) for metric in metrics}
    return _grid("Scores", arms, columns, "By the dataset's own rules; an unanswered request is wrong.")


def _differences(pairs: Pairs, arms: Arms) -> Grid:
    def column(metric: str) -> Callable[[PairFigures], str]:
        def cell(pair: PairFigures) -> str:
            _, difference_format = score_formats(arms[pair.against].scores.get(metric))
            return figure_text((pair.figure_differences or {}).get(metric), difference_format)

        return cell

    metrics = dict.fromkeys(metric for pair in pairs.values() for metric in pair.figure_differences or {})
    columns = {metric.replace("_", " "): column(metric) for metric in metrics}
    columns["McNemar's p"] = lambda pair: DASH if pair.mcnemar is None else f"{pair.mcnemar.p:.3g}"
    note = "Differences over the same requests, with paired 95 % intervals."
    return _grid(f"Scores against {_baseline(pairs)}", pairs, columns, note)


def _memory(arms: Arms) -> Grid:
    columns = _peaks(arms, "peak_memory_bytes", "") | _peaks(arms, "peak_gpu_memory_bytes", " (GPU)")
    note = (
        "Resident memory of each stage's process at its highest, shared memory included; interleaved arms "
        "share their processes, and each shows the peak of all of them."
    )
    return _grid("Peak memory", arms, columns, note)


def _peaks(
    arms: Arms, name: Literal["peak_memory_bytes", "peak_gpu_memory_bytes"], suffix: str
) -> dict[str, Callable[[ArmFigures], str]]:
    def column(stage: str) -> Callable[[ArmFigures], str]:
        return lambda arm: value_text(getattr(arm, name).get(stage), size)

    stages = dict.fromkeys(stage for arm in arms.values() for stage in getattr(arm, name))
    return {f"{stage}{suffix}": column(stage) for stage in stages}


def _made_with(arms: Arms) -> Grid:
    labels = reducer_labels(arms)
    columns = ("arm", "reducer", "CLIP reads", "model", "engine", "run", "fingerprint")
    rows = []
    for name, arm in arms.items():
        text = ", ".join(arm.clip_text or ())
        made_with = (text, arm.model, arm.engine, arm.run_id, (arm.fingerprint or DASH)[:16])
        rows.append((name, labels[name], *(cell or DASH for cell in made_with)))
    return Grid("Made with", columns, rows, prose=True)


def _grid(
    title: str, by_arm: Mapping[str, Row], columns: Mapping[str, Callable[[Row], str]], note: str
) -> Grid:
    """Make a table with a row for each arm; leaves out columns without any figure."""
    cells = {column: [show(row) for row in by_arm.values()] for column, show in columns.items()}
    filled = {column: texts for column, texts in cells.items() if any(text != DASH for text in texts)}
    rows = [(name, *(texts[number] for texts in filled.values())) for number, name in enumerate(by_arm)]
    return Grid(title, ("arm", *filled), rows if filled else [], note)


def status_table(comparison: Comparison) -> Grid:
    """Count requests by status, an arm a row."""
    arms = comparison.arms
    statuses = list(dict.fromkeys(["ok", *(status for arm in arms.values() for status in arm.status)]))
    rows = [(name, *(f"{arm.status.get(status, 0):,}" for status in statuses)) for name, arm in arms.items()]
    return Grid("Requests by status", ("arm", *statuses), rows)


def failure_tables(examples: Mapping[tuple[str, str], Iterable[Example]]) -> list[Grid]:
    """List the first failures of each status and arm."""
    by_status: dict[str, list[tuple[str, ...]]] = {}
    for (arm, status), of_arm in sorted(examples.items()):
        rows = [
            (arm, example.key, example.sample_key, _line(example.question), _line(example.error))
            for example in of_arm
        ]
        by_status.setdefault(status, []).extend(rows)
    columns = ("arm", "key", "sample", "question", "error")
    return [Grid(status, columns, rows, prose=True) for status, rows in by_status.items()]


def worst_tables(pairs: Pairs) -> list[Grid]:
    """List, for each arm, the answers that are least like the baseline's."""
    grids = []
    for name, pair in pairs.items():
        columns = ("key", "question", pair.against, name, "ROUGE-L")
        rows = [_worst_row(answer) for answer in pair.worst[:_WORST]]
        grids += [Grid(f"{name} against {pair.against}", columns, rows, prose=True)] if rows else []
    return grids


def _worst_row(answer: WorstAnswer) -> tuple[str, ...]:
    texts = (answer.question, answer.baseline, answer.prediction)
    return (answer.key, *map(_line, texts), value_text(answer.rouge_l))


def _line(text: str | None, most: int = 300) -> str:
    line = " ".join((text or "").split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
