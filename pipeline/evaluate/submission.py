"""Writes predictions in the formats that evaluation servers and judges take."""

import json
from collections.abc import Iterable, Iterator, Mapping


def json_list(items: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Write a JSON list, piece by piece."""
    separator = "["
    for item in items:
        yield f"{separator}{json.dumps(item)}"
        separator = ",\n"
    yield "]\n" if separator != "[" else "[]\n"


def json_object(pairs: Iterable[tuple[str, object]]) -> Iterator[str]:
    """Write a JSON object, piece by piece."""
    separator = "{"
    for name, value in pairs:
        yield f"{separator}{json.dumps(name)}: {json.dumps(value)}"
        separator = ",\n"
    yield "}\n" if separator != "{" else "{}\n"


def json_lines(items: Iterable[Mapping[str, object]]) -> Iterator[str]:
    """Write JSONL, line by line."""
    return (f"{json.dumps(item)}\n" for item in items)


def official_id(question_id: str) -> int | str:
    """Convert a question_id to its form in the official files: a number where it is one."""
    return int(question_id) if question_id.isdecimal() else question_id
