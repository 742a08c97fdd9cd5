"""Predictions in the formats that evaluation servers and judges take."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def json_list(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A JSON list, piece by piece."""
    before = "["
    for item in items:
        yield f"{before}{json.dumps(item)}"
        before = ",\n"
    yield "]\n" if before != "[" else "[]\n"


def json_object(pairs: Iterable[tuple[str, Any]]) -> Iterator[str]:
    """A JSON object, piece by piece."""
    before = "{"
    for name, value in pairs:
        yield f"{before}{json.dumps(name)}: {json.dumps(value)}"
        before = ",\n"
    yield "}\n" if before != "{" else "{}\n"


def json_lines(items: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """JSONL."""
    return (f"{json.dumps(item)}\n" for item in items)


def number(name: str) -> int | str:
    """A question_id as the official files have it: a number where it is one."""
    return int(name) if name.isdecimal() else name
