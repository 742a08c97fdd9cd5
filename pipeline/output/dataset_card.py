"""README.md beside an output's files: the card that data set hubs show, and that their libraries read."""

import json
from collections.abc import Iterator
from typing import Any

from pipeline.output.manifest import Manifest
from pipeline.support.schema import PREDICTIONS
from pipeline.storage.uris import Storage, write_atomic

NAME = "README.md"
# What the columns hold; whose names end in _s are seconds.
COLUMNS = {
    "key": "shard, sample and question, in the order of the source; no two rows have the same",
    "sample_key": "the sample's name in the source",
    "question_id": "the question's name in the source, or its number",
    "source": "the shard's file",
    "sample": "the sample's number in its shard",
    "image_sha256": "of the image's bytes",
    "width": "of the image, in pixels",
    "height": "of the image, in pixels",
    "question": "as it was asked, without the prompt's template",
    "prediction": "the model's answer; null unless status is ok",
    "status": "ok, or what was wrong",
    "error": "one line on what was wrong",
    "finish_reason": "stop, or length: max_new_tokens was reached",
    "visual_tokens_full": "of the image, before reduction",
    "visual_tokens_kept": "that the language model saw, an aggregated one included",
    "kept_patches": "one bit a patch, row by row, the first in the highest bit of the first byte",
    "prompt_tokens": "of the text",
    "generated_tokens": "of the answer",
    "image_decode_s": "this request's share of decoding its image",
    "encode_s": "its share of CLIP",
    "reduce_s": "its share of the reduction",
    "prefill_s": "its share of the language model's first pass",
    "generate_s": "its share of all of the generation, prefill included",
    "tokens_per_s": "generated, in that time",
    "model": "conf/model",
    "reducer": "conf/reducer",
    "run_id": "of run.json",
}


def write_card(folder: str, manifest: Manifest, summary: dict[str, Any], storage: Storage) -> None:
    """Write the card of an output that is finished."""
    fs, path = storage.open(folder)
    text = storage.hide("\n".join(_lines(manifest, summary)) + "\n")
    write_atomic(fs, f"{path}/{NAME}", text.encode())


def _lines(manifest: Manifest, summary: dict[str, Any]) -> Iterator[str]:
    yield from ("---", "configs:", "- config_name: default", "  data_files: data/*.parquet")
    yield from ("task_categories:", "- visual-question-answering", "- image-to-text", "---", "")
    yield from ("# Answers about images, by Trimline", "")
    yield f"{summary['rows']:,} rows about {summary['samples']:,} samples of `{summary['source']}`: "
    yield ", ".join(f"{count:,} {status}" for status, count in sorted(summary["status"].items())) + "."
    tokens = summary["tokens"]
    if tokens["kept_fraction"] is not None:
        yield (
            f"The language model saw {tokens['visual_tokens_kept']:,} of {tokens['visual_tokens_full']:,} "
            f"visual tokens ({tokens['kept_fraction']:.1%})."
        )
    yield from (
        "",
        "```python",
        "import datasets",
        'datasets.load_dataset("parquet", data_files="data/*.parquet")',
    )
    yield from ("```", "", "| column | type | |", "|---|---|---|")
    for field in PREDICTIONS:
        yield f"| {field.name} | {field.type} | {COLUMNS[field.name]} |"
    yield from ("", "What can change an answer, as run.json has it:", "", "```json")
    yield json.dumps(manifest.counted, indent=1)
    yield "```"
