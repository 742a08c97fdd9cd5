"""Writes predictions in the formats that evaluation servers and judges take."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence

from pipeline.support.errors import ConfigError


def json_list(items: Iterable[Mapping[str, object]]) -> bytes:
    """Write a JSON list, an item a line."""
    text = ",\n".join(map(json.dumps, items))
    return f"[{text}]\n".encode()


def json_object(pairs: Iterable[tuple[str, object]]) -> bytes:
    """Write a JSON object, a pair a line."""
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in pairs)
    return f"{{{text}}}\n".encode()


def json_lines(items: Iterable[Mapping[str, object]]) -> bytes:
    """Write JSONL."""
    return "".join(f"{json.dumps(item)}\n" for item in items).encode()


def official_id(question_id: str) -> int | str:
    """Convert a question_id to its form in the official files: a number where it is one."""
    return int(question_id) if question_id.isdecimal() else question_id


def workbook(rows: Iterable[Sequence[object]]) -> bytes:
    """Write an xlsx file of one sheet.

    Texts stay texts, also those that look like formulas. Control characters, which xlsx cannot hold, become
    blanks.

    Raises:
        ConfigError: the package openpyxl is not installed.
    """
    try:
        from openpyxl import Workbook
        from openpyxl.cell import WriteOnlyCell
        from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    except ImportError:
        raise ConfigError(
            "submission: an xlsx file needs the package openpyxl: pip install 'trimline[xlsx]'"
        ) from None
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Sheet1")
    for row in rows:
        cells = []
        for value in row:
            cell = WriteOnlyCell(sheet)
            if isinstance(value, str):
                cell.value = ILLEGAL_CHARACTERS_RE.sub(" ", value)
                cell.data_type = "s"
            else:
                cell.value = value
            cells.append(cell)
        sheet.append(cells)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()
