"""Measures a trained demo checkpoint and writes its model card."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from pipeline.benchmark import demo
from pipeline.benchmark.demo import DemoFigures
from pipeline.benchmark.gauges import Machine, machine
from pipeline.demo.scene import COLORS, HELD_OUT, SHAPES
from pipeline.engines.transformers import Transformers
from pipeline.models.config import Model
from pipeline.models.devices import torch_device

if TYPE_CHECKING:
    from pipeline.train_demo.config import Recipe

_CARD = Path(__file__).with_suffix(".md")


class LogLine(TypedDict):
    """Holds one validation: the step, the seconds of training so far, and figures not read here."""

    step: int
    seconds: int


class TrainingReport(TypedDict):
    """Declares report.json of a trained checkpoint."""

    recipe: dict[str, object]
    machine: Machine
    trim_sign: int
    logs: dict[str, list[LogLine]]
    figures: dict[str, DemoFigures]


def write_model_card(recipe: "Recipe", say: Callable[[str], None]) -> None:
    """Measure the written checkpoints on validation and test pictures; write report.json and README.md.

    Validation alone decides the sign of TRIM; the test split is only reported.
    """
    folder = Path(recipe.output)
    model = Model(
        name="demo",
        path=str(folder / "llava"),
        clip=str(folder / "clip"),
        template=recipe.template,
        trim_sign=1,
    )

    def measured(split: str, sign: int) -> DemoFigures:
        signed = Model(**(vars(model) | {"trim_sign": sign}))
        say(f"report: answering questions about {recipe.reported_pictures} pictures of the {split} split")
        return demo.measure_arms(
            signed,
            Transformers(),
            demo.arms_of(signed),
            split=split,
            seed=recipe.seed,
            pictures=recipe.reported_pictures,
            progress=lambda done: say(f"report: {split} {done}") if done % 80 == 0 else None,
        )

    validation = measured("val", 1)
    arms = validation["arms"]
    sign = 1 if arms["trim"]["accuracy"] >= arms["trim_other_sign"]["accuracy"] else -1
    figures = {"val": validation if sign == 1 else measured("val", sign), "test": measured("test", sign)}
    logs = {part: _log(Path(recipe.work) / part / "log.jsonl") for part in ("tower", "language")}
    report: TrainingReport = {
        "recipe": asdict(recipe),
        "machine": machine(torch_device(recipe.device)),
        "trim_sign": sign,
        "logs": logs,
        "figures": figures,
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    (folder / "README.md").write_text(_card(recipe, report))


def _log(file: Path) -> list[LogLine]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def _card(recipe: "Recipe", report: TrainingReport) -> str:
    logs = report["logs"]
    return _CARD.read_text().format(
        shapes=_listed(SHAPES),
        colors=_listed(COLORS),
        held_out=_listed([" ".join(pair) for pair in HELD_OUT]),
        seed=recipe.seed,
        train_pictures=f"{recipe.train_pictures:,}",
        dense_pictures=f"{recipe.dense_pictures:,}",
        val_pictures=recipe.val_pictures,
        tower_steps=logs["tower"][-1]["step"],
        tower_hours=logs["tower"][-1]["seconds"] / 3600,
        language_steps=logs["language"][-1]["step"],
        language_hours=logs["language"][-1]["seconds"] / 3600,
        sign=report["trim_sign"],
        tables="\n\n".join(_table(figures) for figures in report["figures"].values()),
        processor=report["machine"]["processor"],
        cores=report["machine"]["cores"],
        torch=report["machine"]["torch"],
    )


def _table(figures: DemoFigures) -> str:
    table = demo.table(figures)
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    rows = [
        "| " + " | ".join(f"{c:.1f}" if isinstance(c, float) else str(c) for c in line) + " |"
        for line in lines
    ]
    return "\n".join([f"{table.title}:", "", *rows, "", *(f"{note}." for note in table.notes)])


def _listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}"
