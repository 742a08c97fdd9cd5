"""Any bytes of a Parquet file, sidecar or JSON line give rows with reasons, or a shard error."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.support.errors import ConfigError
from tests.fuzz.damage import damaged
from tests.fuzz.harness import cases, run
from tests.support.measured import MIB
from tests.support.tars import jpeg, write_members

ROWS = {
    "image": [jpeg(seed, 16, 16) for seed in range(7)],
    "questions": [["what?", "why?"], ["who?"], [], None, ["é"], ["a", "b"], ["c"]],
    "key": [f"k{index}" for index in range(7)],
    "question_id": [7, 8, None, 9, 10, 11, 12],
}


def parquet_of(columns: dict[str, list], **options) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, row_group_size=3, **options)
    return sink.getvalue()


AS_STRUCT = {**ROWS, "image": [{"bytes": data, "path": "a.jpg"} for data in ROWS["image"]]}
AS_TEXT = {"image": ROWS["image"], "question": ["what?"] * 7, "key": ROWS["key"]}
TABLES = [
    parquet_of(columns, **options)
    for columns in (ROWS, AS_STRUCT, AS_TEXT)
    for options in (
        {"compression": "none", "use_dictionary": False},
        {"compression": "zstd"},
        {"write_page_checksum": True},
    )
]


@cases(100)
@given(damaged(st.sampled_from(TABLES)))
def test_damaged_parquet(folder, data):
    (folder / "fuzz.parquet").write_bytes(data)
    source = Parquet(path=str(folder / "fuzz.parquet"), key_column="key")
    assert len(run(source, folder)) < 1000, "a footer may promise any number of rows"


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        [10**400, "\ud800", "\0", "a\nb", "../../etc/passwd", "1.jpg", "x://y::z", "", "n" * 5000]
    ),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)
KEYS = st.sampled_from(["question", "questions", "question_id", "image", "text", "answers"])
OBJECTS = st.dictionaries(
    KEYS, st.one_of(VALUES, st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=4)), max_size=4
)


def nested(depth: int, mark: bytes) -> bytes:
    close = {b"[": b"]", b'{"question_id":': b"}"}[mark]
    return (
        b'{"image": "1.jpg", "question": "why?", "question_id": ' + mark * depth + b"1" + close * depth + b"}"
    )


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Draw JSON in any encoding, mostly sound, and texts that are almost JSON."""
    tree = draw(st.one_of(OBJECTS, OBJECTS, VALUES))
    text = json.dumps(tree, ensure_ascii=draw(st.booleans()))
    encoding = draw(
        st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32-be", "latin-1"])
    )
    odd = [
        b"",
        b"null",
        b"NaN",
        b"[" * 100_000,
        b'{"question": ' * 50_000,
        b"9" * 5000,
        b'{"question_id": ' + b"9" * 4000 + b', "question": "a"}',
        b'{"question": "a", "question": "b", "question": 3}',
        b'{"question": "\xff"}',
        b'{"question": "\xed\xa0\x80"}',
        b'{"question": "a\0b"}',
        b"\xef\xbb\xbf{}",
        b'{"questions": [' + b'"",' * 20_000 + b'""]}',
        b"1e999",
        b'{"question": "' + b"x" * 2_000_000 + b'"}',
    ]
    sound = st.just(text.encode(encoding, "surrogatepass" if encoding.startswith("utf") else "replace"))
    deep = st.builds(
        nested,
        st.one_of(st.integers(1, 2000), st.integers(950, 1000)),
        st.sampled_from([b"[", b'{"question_id":']),
    )
    return draw(st.one_of(sound, sound, damaged(sound, most=2), st.sampled_from(odd), deep))


@cases(100)
@given(st.lists(texts(), min_size=1, max_size=3), st.sampled_from(["json", "txt"]))
def test_sidecars(folder, sidecars, suffix):
    parts = [
        (f"{index}.{kind}", data)
        for index, text in enumerate(sidecars)
        for kind, data in (("jpg", jpeg(1, 16, 16)), (suffix, text))
    ]
    write_members(folder / "sidecars.tar", [*parts, ("z.jpg", jpeg(2, 16, 16)), ("z.txt", b"what?")])
    rows = run(WebDataset(path=str(folder / "sidecars.tar")), folder)
    assert [row["sample_key"] for row in rows] == [*map(str, range(len(sidecars))), "z"]
    assert rows[-1]["status"] == "ok"


@cases(100)
@given(st.lists(texts(), max_size=5), st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n\xef\xbb\xbf"]))
def test_lines(folder, lines, between):
    good = b'{"question_id": 1, "image": "1.jpg", "text": "what?"}'
    (folder / "1.jpg").write_bytes(jpeg(1, 16, 16))
    (folder / "fuzz.jsonl").write_bytes(between.join([good, *lines]) + b"\n" + good)
    rows = run(Jsonl(path=str(folder / "fuzz.jsonl"), slice_files=2), folder, room=256 * MIB)
    assert rows[0]["sample_key"] == rows[-1]["sample_key"] == "1.jpg"
    assert {rows[0]["status"], rows[-1]["status"]} <= {"ok", "bad_sample"}


@cases(30)
@given(damaged(st.sampled_from([b'{"image": "1.jpg", "text": "what?"}\n' * 9])))
def test_damaged_lines(folder, data):
    (folder / "fuzz.jsonl").write_bytes(data)
    try:
        run(Jsonl(path=str(folder / "fuzz.jsonl"), slice_files=2), folder)
    except ConfigError as error:
        assert "\n" not in str(error)
