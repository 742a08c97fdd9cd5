"""Test what an image cell may hold, and that no cell costs more than its size."""

import base64
import json
import urllib.parse

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.arrow_bounds import require_small
from pipeline.sources.base import Want, files_of
from pipeline.sources.cells import image_or_path, is_inline, only_image
from pipeline.sources.items import samples_of
from pipeline.sources.parquet import Parquet
from pipeline.storage.uris import Storage
from pipeline.support.errors import BadImage, BadSample
from tests.support.corpus import encoded, picture
from tests.support.tars import jpeg

HERE = Storage()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
WORD = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-", min_size=1, max_size=64)


@pytest.mark.parametrize("kind", FORMATS)
def test_images_of_every_format_are_known_in_base64(kind):
    image = encoded(picture(1), kind)
    plain = base64.b64encode(image).decode()
    lines = base64.encodebytes(image).decode()
    safe = base64.urlsafe_b64encode(image).decode().rstrip("=")
    quoted = urllib.parse.quote(plain, safe="")
    uri = f"data:image/{kind.lower()};charset=x;base64,"
    for text in (plain, lines, safe, uri + plain, uri.upper() + plain, uri + quoted):
        assert image_or_path(text) == image
        assert image_or_path(text.encode()) == image
    assert image_or_path("data:image/x," + urllib.parse.quote_from_bytes(image)) == image
    assert image_or_path(image) == image


@given(st.lists(WORD, min_size=1, max_size=9), st.sampled_from([".jpg", ".png", "", ".JPEG"]), st.booleans())
def test_paths_stay_paths(parts, suffix, absolute):
    path = "/" * absolute + "/".join(parts) + suffix
    assert not is_inline(path) and image_or_path(path) == path


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "the row has no image"),
        ([], "the row has no image"),
        ({}, "the row has no image"),
        ({"bytes": None, "path": None}, "the row has no image"),
        ([b"a", b"b"], "the row has 2 images"),
        ([None, None, None], "the row has 3 images"),
        ({"data": b"x", "format": "jpg"}, "the image has neither bytes nor path, but data, format"),
        (7, "the image is neither bytes nor a path, but int"),
        ([[b"a"]], "the image is neither bytes nor a path, but list"),
    ],
)
def test_what_is_no_single_image_is_told_as_such(value, reason):
    with pytest.raises(BadSample) as fault:
        only_image(value, "row")
    assert str(fault.value) == reason


@pytest.mark.parametrize("value", [b"x", [b"x"], {"bytes": b"x"}, [{"bytes": b"x", "path": "a.jpg"}]])
def test_one_image_is_found(value):
    assert only_image(value, "row") == b"x"


def test_damaged_base64_is_told_without_its_characters():
    text = base64.b64encode(jpeg(1)).decode()
    for damaged in (text[:-1] + "?", "data:image/png;base64,%%%"):
        with pytest.raises(BadImage) as fault:
            image_or_path(damaged)
        assert "damaged" in str(fault.value) and len(str(fault.value)) < 80


def read(folder, table: pa.Table, want=Want.ALL, **settings):
    pq.write_table(table, folder / "a.parquet")
    source = Parquet(path=str(folder / "a.parquet"), **settings)
    (shard,) = source.shards(files_of(source, HERE), HERE)
    assert shard.samples == table.num_rows
    return list(samples_of(source, shard, HERE, lambda _: want))


def test_ids_that_pandas_made_floats_are_as_they_were(tmp_path):
    table = pa.table({"image": [jpeg(0)] * 4, "question": ["?"] * 4, "id": [1.0, 2.5, None, float("nan")]})
    samples = read(tmp_path, table, question_id_column="id", key_column="id")
    assert [sample.key for sample in samples] == ["1", "2.5", "row 2", "row 3"]
    assert [sample.questions[0].question_id for sample in samples] == ["1", "2.5", "", ""]


def rows_of(count: int, values: pa.Array) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), values)


def same(text: str, count: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([text]))


BOMBS = {
    "questions: many texts": {"questions": rows_of(3_000_000, same("", 3_000_000))},
    "questions: many nulls": {"questions": rows_of(3_000_000, pa.nulls(3_000_000, pa.string()))},
    "questions: long texts": {"questions": rows_of(900, same("x" * (1 << 20), 900))},
    "questions: objects": {
        "questions": rows_of(
            1_000_000,
            pa.StructArray.from_arrays([pa.nulls(1_000_000, pa.string())] * 2, ["question", "question_id"]),
        )
    },
    "questions: lists of lists": {"questions": rows_of(1, rows_of(3_000_000, pa.nulls(3_000_000)))},
    "question: a list": {"question": rows_of(3_000_000, pa.nulls(3_000_000, pa.string()))},
    "question: long": {"question": pa.array(["x" * (8 << 20)])},
    "key: long": {"key": pa.array(["x" * 100_000])},
    "key: a list": {"key": rows_of(3_000_000, pa.nulls(3_000_000, pa.int64()))},
    "image: many numbers": {"image": rows_of(3_000_000, pa.nulls(3_000_000, pa.uint8()))},
    "image: many images": {"image": rows_of(3_000_000, pa.nulls(3_000_000, pa.binary()))},
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_cell_that_is_too_much_is_one_fault(tmp_path, name):
    columns = {
        "image": pa.array([jpeg(0)]),
        "question": pa.array(["?"]),
        "key": pa.array(["k"]),
        **BOMBS[name],
    }
    (sample,) = read(tmp_path, pa.table(columns), key_column="key")
    fault = sample.fault or sample.question_fault
    assert fault is not None and len(str(fault)) < 200
    column = name.partition(":")[0]
    assert column in str(fault) or (column == "image" and "images" in str(fault))


@pytest.mark.parametrize("rows", [1, 16, 40])
def test_a_large_cell_among_small_ones_is_the_only_fault(tmp_path, rows):
    questions = [["a?", "b?"] for _ in range(rows)]
    questions[rows // 2] = ["x"] * 20_000
    samples = read(tmp_path, pa.table({"image": [jpeg(0)] * rows, "questions": questions}))
    faulty = [index for index, sample in enumerate(samples) if sample.fault or sample.question_fault]
    assert faulty == [rows // 2]
    assert all(len(sample.questions) == 2 for index, sample in enumerate(samples) if index not in faulty)


@given(
    st.recursive(
        st.one_of(st.text(max_size=9), st.binary(max_size=9), st.none()),
        lambda inner: st.lists(inner, max_size=4),
        max_leaves=8,
    )
)
def test_sizes_are_those_of_the_values(value):
    try:
        cell = pa.array([value])
    except (pa.ArrowException, ValueError, TypeError):
        return  # Arrow has no type for it
    size, most = _size(value)
    require_small(cell, "c", most_items=most, most_bytes=size)
    if size:
        with pytest.raises(BadSample, match="too long"):
            require_small(cell, "c", most_items=most, most_bytes=size - 1)
    if most:
        with pytest.raises(BadSample, match="holds"):
            require_small(cell, "c", most_items=most - 1, most_bytes=size)


def _size(value) -> tuple[int, int]:
    """Return the bytes of a value's texts, and the most values of one depth."""
    if value is None:
        return 0, 0
    if isinstance(value, str | bytes):
        return len(value.encode() if isinstance(value, str) else value), 0
    depths, level, total = [], [value], 0
    while level:
        inner = [item for items in level for item in items]
        depths.append(len(inner))
        total += sum(_size(item)[0] for item in inner if isinstance(item, str | bytes))
        level = [item for item in inner if isinstance(item, list)]
    return total, max(depths)


def test_json_of_questions_in_a_text_column_is_a_question(tmp_path):
    (sample,) = read(tmp_path, pa.table({"image": [jpeg(0)], "question": [json.dumps(["a", "b"])]}))
    assert [question.text for question in sample.questions] == ['["a", "b"]']
