"""Writes an output's README.md: the card that data set hubs show and their libraries read."""

import hashlib
import json
from collections.abc import Iterator

from pipeline.output.layout import CARD
from pipeline.output.manifest import Manifest
from pipeline.output.summary import Summary
from pipeline.storage.names import shown
from pipeline.storage.uris import Storage, read_bytes, write_atomic
from pipeline.support.plain_text import printable
from pipeline.support.schema import COLUMNS

_HEAD = (
    *("---", "configs:", "- config_name: default", "  data_files: data/*.parquet", "task_categories:"),
    *("- visual-question-answering", "- image-to-text", "---", "", "# Answers about images, by Trimline"),
)
_SEAL = "<!-- Written by Trimline, which does not replace an edited card. {} -->"


def write_card(folder: str, manifest: Manifest, summary: Summary, storage: Storage) -> bool:
    """Write the card of a finished output; returns False if another README.md is there, which it keeps."""
    fs, path = storage.open(folder)
    present = read_bytes(fs, f"{path}/{CARD}")
    if present is not None and not _is_own(present):
        return False
    text = storage.hide_in_data("\n".join(_lines(manifest, summary)) + "\n")
    write_atomic(fs, f"{path}/{CARD}", f"{text}\n{_seal(text)}\n".encode())
    return True


def _is_own(card: bytes) -> bool:
    """Tell whether a card is unedited.

    Cards of 0.1.0 have no seal and are known by their head.
    """
    text = card.decode("utf-8", "replace")
    body, _, seal = text.rstrip("\n").rpartition("\n\n")
    if _SEAL.partition("{")[0] in text:
        return seal == _seal(f"{body}\n")
    return text.startswith("\n".join(_HEAD) + "\n")


def _seal(text: str) -> str:
    return _SEAL.format(hashlib.sha256(text.encode()).hexdigest()[:16])


def _lines(manifest: Manifest, summary: Summary) -> Iterator[str]:
    yield from (*_HEAD, "")
    yield f"{summary.rows:,} rows about {summary.samples:,} samples of `{_code(summary.source)}`: "
    yield ", ".join(f"{count:,} {status}" for status, count in sorted(summary.status.items())) + "."
    tokens = summary.tokens
    if summary.kept_fraction is not None:
        yield (
            f"The language model saw {tokens['visual_tokens_kept']:,} of {tokens['visual_tokens_full']:,} "
            f"visual tokens ({summary.kept_fraction:.1%})."
        )
    yield from (
        "",
        "```python",
        "import datasets",
        'datasets.load_dataset("parquet", data_files="data/*.parquet")',
    )
    yield from ("```", "", "| column | type | |", "|---|---|---|")
    for column in COLUMNS:
        yield f"| {column.name} | {column.field.type} | {column.description} |"
    yield from ("", "What can change an answer, as run.json has it:", "", "```json")
    yield json.dumps(manifest.counted, indent=1)
    yield "```"


def _code(text: str) -> str:
    """Make a name's text safe between backticks."""
    return printable(shown(text)).replace("`", "'")
