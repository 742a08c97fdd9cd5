"""Writes LLaVA's two layouts: conversations to train on, and answers for its evaluation scripts.

haotian-liu/LLaVA: llava/train/train.py (LazySupervisedDataset) reads one list of JSON, and its descendants
also a JSON object a line; llava/eval/model_vqa_loader.py writes the answers.
"""

import json
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.export.answers import Answers, Rows, Written
from pipeline.export.images import named_images
from pipeline.storage.uris import name_of, put_atomic

_IMAGE = "<image>"
# JSON may hold them as they are, but `str.splitlines` takes them for the ends of lines.
_LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
# The most digits of a number that every reader of JSON takes as it is.
_DIGITS = 15


def write_conversations(answers: Answers) -> Written:
    """Write a conversation a sample, with a turn for each question; images first, if they are asked for."""
    written = Written()
    _write(answers, _conversations(answers, written))
    return written


def _conversations(answers: Answers, written: Written) -> Iterator[dict[str, object]]:
    for image, rows in named_images(answers, written):
        written.rows += len(rows)
        yield _conversation(rows, image)


def _conversation(rows: Rows, image: str) -> dict[str, object]:
    """Make a conversation with exactly one `<image>`, as LLaVA's trainer needs it: one for its one image."""
    turns = []
    for number, row in enumerate(rows):
        question = _without_image(row["question"])
        turns += [
            {"from": "human", "value": f"{_IMAGE}\n{question}" if number == 0 else question},
            {"from": "gpt", "value": _without_image(row["prediction"])},
        ]
    ids = {"id": rows[0]["key"], "ids": [row["question_id"] for row in rows]}
    return {**ids, "sample_key": rows[0]["sample_key"], "image": image, "conversations": turns}


def _without_image(text: str) -> str:
    """Take every `<image>` out of a text; what stood around it is joined by a blank."""
    if _IMAGE not in text:
        return text
    return " ".join(part for part in map(str.strip, text.split(_IMAGE)) if part)


def write_answers(answers: Answers) -> Written:
    """Write a line of JSON a row, as LLaVA's evaluation scripts read it."""
    written = Written()
    numbers = answers.options.question_ids == "number" and _ids_are_numbers(answers)
    _write(answers, _answer_lines(answers, numbers, written))
    return written


def _answer_lines(answers: Answers, numbers: bool, written: Written) -> Iterator[dict[str, object]]:
    for shard in answers.numbers():
        for table in answers.tables(shard):
            for row in table.to_pylist():
                written.rows += 1
                yield _answer(row, numbers)


def _answer(row: dict[str, Any], numbers: bool) -> dict[str, object]:
    """Make one line; the text of a row without an answer is empty, and `metadata` says why."""
    fault = {} if row["status"] == "ok" else {"status": row["status"], "error": row["error"]}
    return {
        "question_id": int(row["question_id"]) if numbers else row["question_id"],
        "prompt": row["question"],
        "text": row["prediction"] or "",
        "answer_id": row["key"],
        "model_id": row["model"],
        "metadata": fault,
    }


def _ids_are_numbers(answers: Answers) -> bool:
    """Tell whether every question_id is a number that is written as JSON would."""
    return all(
        len(name) <= _DIGITS and name.isascii() and name.isdecimal() and str(int(name)) == name
        for shard in range(len(answers.plan))
        for table in answers.tables(shard, ["question_id"])
        for name in table["question_id"].to_pylist()
    )


def _write(answers: Answers, items: Iterable[dict[str, object]]) -> None:
    """Write items, all or none: a list of JSON if conversations go to a `.json`, else JSON lines."""
    options, storage = answers.options, answers.storage
    as_list = options.format == "llava" and name_of(options.to).lower().endswith(".json")
    before, between, after = ("[\n", ",\n", "\n]\n") if as_list else ("", "\n", "\n")
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        empty = True
        for item in items:
            file.write(before if empty else between)
            file.write(json.dumps(item, ensure_ascii=False).translate(_LINE_ENDS))
            empty = False
        file.write(after if not empty else "[]\n" if as_list else "")
        file.flush()
        with storage.reaching("to", options.to):
            put_atomic(*storage.open(options.to), file.name)
