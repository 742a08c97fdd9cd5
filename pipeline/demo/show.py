"""Prints the end of `make demo`: answers beside the truth, and what reduced tokens saved and cost.

`python -m pipeline.demo.show REDUCED FULL` takes two finished outputs of the demo pictures.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import TypedDict

import pyarrow.parquet as pq

from pipeline.demo.pictures import pictures
from pipeline.demo.score import F1, caption_f1, is_right
from pipeline.support.table import Table, show

COLUMNS = ["sample_key", "question_id", "question", "prediction", "visual_tokens_kept", "visual_tokens_full"]
SHOWN = 4  # scenes whose answers are printed
QUESTIONS = 3  # of each


Key = tuple[str, str]  # of a request: sample_key and question_id


class AnswerRow(TypedDict):
    """Holds the COLUMNS of one row."""

    sample_key: str
    question_id: str
    question: str
    prediction: str | None
    visual_tokens_kept: int
    visual_tokens_full: int


Arms = dict[str, dict[Key, AnswerRow]]


def show_answers(reduced: str, full: str) -> None:
    """Print both tables of two outputs of the demo pictures."""
    arms = {"reduced": _rows(reduced), "all tokens": _rows(full)}
    truth = _truth(pictures())
    show(_some_answers(arms, truth))
    show(_totals(arms, truth))
    print("\nThe photographs are answered, too, but the demo model knows nothing beyond coloured shapes.")


def _rows(output: str) -> dict[Key, AnswerRow]:
    rows = pq.read_table(Path(output) / "data", columns=COLUMNS).to_pylist()
    return {(row["sample_key"], row["question_id"]): row for row in rows}


def _truth(folder: Path) -> dict[Key, tuple[str, ...]]:
    """Read the right answers; the question for a caption has the id 0, as the task gives it."""
    truth: dict[Key, tuple[str, ...]] = {}
    for file in sorted(folder.glob("scenes/*.json")):
        sidecar = json.loads(file.read_text())
        key = f"scenes/{file.stem}.jpg"
        truth[key, "0"] = (sidecar["caption"],)
        truth |= {(key, item["question_id"]): tuple(item["answers"]) for item in sidecar["questions"]}
    return truth


def _some_answers(arms: Arms, truth: dict[Key, tuple[str, ...]]) -> Table:
    shown: Counter[str] = Counter()  # questions of each sample
    rows = []
    for (sample, question), answers in truth.items():
        if question == "0" or shown[sample] == QUESTIONS or (sample not in shown and len(shown) == SHOWN):
            continue
        shown[sample] += 1
        predicted = [arm[sample, question] for arm in arms.values()]
        predictions = (f"{row['prediction']} ({row['visual_tokens_kept']})" for row in predicted)
        rows.append((sample, predicted[0]["question"], answers[0], *predictions))
    title = "Some answers, with the visual tokens they were given from"
    return Table(title, ("picture", "question", "truth", *arms), rows)


def _totals(arms: Arms, truth: dict[Key, tuple[str, ...]]) -> Table:
    rows = []
    for name, arm in arms.items():
        right = [is_right(arm[key]["prediction"], answers) for key, answers in truth.items() if key[1] != "0"]
        captions = [
            caption_f1(arm[key]["prediction"], answers[0]) for key, answers in truth.items() if key[1] == "0"
        ]
        kept = sum(arm[key]["visual_tokens_kept"] for key in truth)
        whole = sum(arm[key]["visual_tokens_full"] for key in truth)
        accuracy, caption_score = 100 * sum(right) / len(right), 100 * sum(captions, F1()).value
        rows.append((name, accuracy, caption_score, kept / len(truth), 100 * (1 - kept / whole)))
    return Table(
        f"All {len(truth)} requests about scenes",
        ("", "answers right, %", "captions, F1 %", "tokens kept", "tokens saved, %"),
        rows,
    )


if __name__ == "__main__":
    show_answers(*sys.argv[1:])
