"""The gallery's requests as data for the page, within a budget of bytes."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.report.choose import DIFFERS, FAILED, SAME, differing
from pipeline.report.pictures import OutputImages, Place, parse_key, thumbnails
from pipeline.report.rows import Requests
from pipeline.storage.uris import Storage
from pipeline.support.schema import ARM_COLUMNS

MOST_BYTES = 4 << 20  # beside the plotting library's 4.8 MB, in a page below 10 MB
_MOST_LETTERS = 2000
_SHARED = ("key", "sample_key", "question", "image_sha256")
_OF_ARMS = (*ARM_COLUMNS, "score")


@dataclass(frozen=True)
class Gallery:
    """`items` name their picture by its place in `pictures`, data URIs; -1: there is none."""

    items: list[dict[str, Any]]
    pictures: list[str]
    asked: int  # how many requests should have been shown


def make_gallery(
    requests: Requests,
    keys: Sequence[str],
    images: OutputImages,
    storage: Storage,
    most_bytes: int = MOST_BYTES,
) -> Gallery:
    """The requests `keys` in this order, as many of the first ones as fit into `most_bytes`."""
    rows = _rows(requests, keys, storage)
    places = {
        parse_key(row["key"]): row["image_sha256"]
        for row in rows
        if any(row[f"status.{arm}"] not in ("bad_sample", "bad_image") for arm in requests.arms)
    }
    drawn = thumbnails(images, places)
    gallery = Gallery([], [], len(keys))
    drawn_at: dict[Place, int] = {}
    for row in rows:
        place = parse_key(row["key"])
        picture = _data_uri(drawn[place]) if place in drawn and place not in drawn_at else ""
        item = _item(row, requests.arms)
        most_bytes -= len(json.dumps(item)) + len(picture)
        if most_bytes < 0:
            break
        if picture:
            drawn_at[place] = len(gallery.pictures)
            gallery.pictures.append(picture)
        gallery.items.append({**item, "picture": drawn_at.get(place, -1)})
    return gallery


def _rows(requests: Requests, keys: Sequence[str], storage: Storage) -> list[dict[str, Any]]:
    """The rows of `keys` in their order, `differs.<arm>` added."""
    if not keys:
        return []
    table = pa.concat_tables(requests.tables(_SHARED, _OF_ARMS, storage, keys))
    differs = differing(table, requests.arms)
    by_key = {}
    for number, row in enumerate(table.to_pylist()):
        by_key[row["key"]] = row | {f"differs.{arm}": bool(own[number]) for arm, own in differs.items()}
    return [by_key[key] for key in keys]


def _item(row: Mapping[str, Any], arms: Sequence[str]) -> dict[str, Any]:
    answers = [_answer({name: row.get(f"{name}.{arm}") for name in (*_OF_ARMS, "differs")}) for arm in arms]
    failed = any(answer["status"] != "ok" for answer in answers)
    differs = any(answer["differs"] for answer in answers)
    return {
        "key": row["key"],
        "sample": _cut(row["sample_key"]),
        "question": _cut(row["question"]),
        "kind": FAILED if failed else DIFFERS if differs else SAME,
        "answers": answers,
    }


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """What one arm made of a request; `patches` is its bitmap in base64, `score` null without a truth."""
    spent = [row[name] for name in ("image_decode_s", "encode_s", "reduce_s", "generate_s")]
    bitmap = row["kept_patches"]
    return {
        "status": row["status"],
        "text": _cut(row["prediction"]),
        "error": _cut(row["error"]),
        "cut": row["finish_reason"] == "length",
        "full": row["visual_tokens_full"],
        "kept": row["visual_tokens_kept"],
        "prompt": row["prompt_tokens"],
        "generated": row["generated_tokens"],
        "seconds": None if None in spent else round(sum(spent), 6),
        "score": row["score"],
        "differs": row["differs"],
        "patches": None if bitmap is None else base64.b64encode(bitmap).decode(),
    }


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
