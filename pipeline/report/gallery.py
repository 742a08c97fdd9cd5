"""Makes the gallery's requests into data for the page, within a budget of bytes."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

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
Row = Mapping[str, Any]  # of an Arrow table, a value of another type in each column


class GalleryAnswer(TypedDict):
    """Holds one arm's answer for the page: `patches` is a bitmap in base64, `score` null without a truth."""

    status: str
    text: str | None
    error: str | None
    cut: bool
    full: int | None
    kept: int | None
    prompt: int | None
    generated: int | None
    seconds: float | None
    score: float | None
    differs: bool
    patches: str | None


class GalleryItem(TypedDict):
    """Holds one request for the page; `picture` is its image's index in the gallery's pictures, -1: none."""

    key: str
    sample: str | None
    question: str | None
    kind: str
    answers: list[GalleryAnswer]
    picture: int


@dataclass(frozen=True)
class Gallery:
    """Holds the requests of the page and their pictures.

    Args:
        pictures: data URIs.
        asked: the number of requests that were selected; fewer may fit.
    """

    items: list[GalleryItem]
    pictures: list[str]
    asked: int


def make_gallery(
    requests: Requests,
    keys: Sequence[str],
    images: OutputImages,
    storage: Storage,
    most_bytes: int = MOST_BYTES,
) -> Gallery:
    """Make items of the requests `keys` in this order, as many of the first ones as fit."""
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
        item["picture"] = drawn_at.get(place, -1)
        gallery.items.append(item)
    return gallery


def _rows(requests: Requests, keys: Sequence[str], storage: Storage) -> list[Row]:
    """Read the rows of `keys` in their order, with `differs.<arm>` added."""
    if not keys:
        return []
    table = pa.concat_tables(requests.tables(_SHARED, _OF_ARMS, storage, keys))
    differs = differing(table, requests.arms)
    by_key: dict[str, Row] = {}
    for number, row in enumerate(table.to_pylist()):
        by_key[row["key"]] = row | {f"differs.{arm}": bool(rows[number]) for arm, rows in differs.items()}
    return [by_key[key] for key in keys]


def _item(row: Row, arms: Sequence[str]) -> GalleryItem:
    answers = [_answer({name: row.get(f"{name}.{arm}") for name in (*_OF_ARMS, "differs")}) for arm in arms]
    failed = any(answer["status"] != "ok" for answer in answers)
    differs = any(answer["differs"] for answer in answers)
    return {
        "key": row["key"],
        "sample": _cut(row["sample_key"]),
        "question": _cut(row["question"]),
        "kind": FAILED if failed else DIFFERS if differs else SAME,
        "answers": answers,
        "picture": -1,
    }


def _answer(row: Row) -> GalleryAnswer:
    seconds = [row[name] for name in ("image_decode_s", "encode_s", "reduce_s", "generate_s")]
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
        "seconds": None if None in seconds else round(sum(seconds), 6),
        "score": row["score"],
        "differs": row["differs"],
        "patches": None if bitmap is None else base64.b64encode(bitmap).decode(),
    }


def _cut(text: str | None) -> str | None:
    return text if text is None or len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
