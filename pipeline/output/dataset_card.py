"""Writes an output's README.md: the card that data set hubs show and their libraries read."""

import json
from collections.abc import Iterator

from pipeline.output.layout import CARD
from pipeline.output.manifest import Manifest
from pipeline.output.summary import Summary
from pipeline.storage.uris import Storage, write_atomic
from pipeline.support.schema import COLUMNS


def write_card(folder: str, manifest: Manifest, summary: Summary, storage: Storage) -> None:
    """Write the card of an output that is finished."""
    fs, path = storage.open(folder)
    text = storage.hide("\n".join(_lines(manifest, summary)) + "\n")
    write_atomic(fs, f"{path}/{CARD}", text.encode())


def _lines(manifest: Manifest, summary: Summary) -> Iterator[str]:
    yield from ("---", "configs:", "- config_name: default", "  data_files: data/*.parquet")
    yield from ("task_categories:", "- visual-question-answering", "- image-to-text", "---", "")
    yield from ("# Answers about images, by Trimline", "")
    yield f"{summary.rows:,} rows about {summary.samples:,} samples of `{summary.source}`: "
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
