"""Test that no entry of a source is unaccounted for: taken, passed over for a reason, or a fault."""

import csv
import io
import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.sources.base import Want
from pipeline.sources.images import Images
from pipeline.sources.items import samples_of
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.listing import File
from pipeline.storage.uris import Storage
from pipeline.support.census import Census
from pipeline.support.errors import ConfigError, ShardError
from tests.support.s3 import BUCKET
from tests.support.tars import jpeg

HERE = Storage()
KINDS = {"images": Images, "webdataset": WebDataset, "parquet": Parquet, "jsonl": Jsonl}
FOLDERS = ("", "", "a/", "a.b/", ".hidden/", "_temporary/0/", "set[1]/", "caf\u00e9/", "__MACOSX/", "x=1/")
STEMS = ("a", "a.left", "a.jpg", "b", ".c", "_d", "e f", "#g", "h{1,2}", "i*", "Thumbs")
SUFFIXES = (
    *("jpg", "JPG", "png", "gif", "tiff", "json", "JSON", "txt", "txt", "cls", "db", ""),
    *("tar", "tar.gz", "zip", "parquet", "jsonl", "csv"),
)
NAMES = st.builds(
    lambda folder, stem, suffix: f"{folder}{stem}{'.' if suffix else ''}{suffix}",
    *map(st.sampled_from, (FOLDERS, STEMS, SUFFIXES)),
)


def require_all_listed(source, storage: Storage, names: set[str], root: str) -> list[File]:
    """Require that the source lists each name once, as a file or passed over; return the files."""
    census, files = Census(), []
    try:
        for entry in source.entries(storage):
            if isinstance(entry, File):
                files.append(entry)
            else:
                census.pass_over(entry)
    except ConfigError as error:
        assert not files and str(error).startswith("source.path: no ")
    listed = [file.uri.removeprefix(root) for file in files]
    assert len(listed) == len(set(listed)) and set(listed) <= names
    assert len(listed) + census.passed_over.total() == len(names)
    return files


def without_folders(names: set[str]) -> set[str]:
    """Leave out the names that are folders of other names: no file can have them."""
    return {name for name in names if not any(other.startswith(f"{name}/") for other in names)}


def require_all_taken(source, storage: Storage, files: list[File]) -> None:
    """Require that the samples of a folder of images are made of all of its listed files."""
    taken = Census()
    for shard in source.shards(iter(files), storage):
        for sample in samples_of(source, shard, storage, lambda _: Want.KEY):
            taken.take(*sample.taken)
    assert taken.images + taken.sidecars == len(files)


@settings(max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(NAMES, min_size=1, max_size=25), st.sampled_from(sorted(KINDS)), st.integers(0, 9))
def test_every_file_of_a_folder_is_listed_or_told(tmp_path_factory, names, kind, links):
    folder = tmp_path_factory.mktemp("tree")
    names = without_folders(names)
    for number, name in enumerate(sorted(names)):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if number < links % 3:
            file.symlink_to(folder / "nowhere" if number else "/etc/hostname")
        else:
            file.write_bytes(b"x")
    source = KINDS[kind](path=str(folder))
    files = require_all_listed(source, HERE, names, f"file://{folder}/")
    if kind == "images":
        require_all_taken(source, HERE, files)


@pytest.mark.parametrize("seed", range(4))
def test_every_object_of_a_prefix_is_listed_or_told(s3, seed):
    rng = random.Random(seed)
    fs, root = s3.open(f"s3://{BUCKET}/accounted{seed}")
    parts = [[rng.choice(choices) for choices in (FOLDERS, STEMS, SUFFIXES)] for _ in range(25)]
    names = {f"{folder}{stem}{'.' if suffix else ''}{suffix}" for folder, stem, suffix in parts}
    names = without_folders(names)
    for name in names:
        fs.pipe_file(f"{root}/{name}", b"x")
    for kind, make in KINDS.items():
        source = make(path=f"s3://{root}")
        files = require_all_listed(source, s3, names, f"s3://{root}/")
        if kind == "images":
            require_all_taken(source, s3, files)


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "image": st.sampled_from(
                ["0.jpg", "1.jpg", "gone.jpg", "../x.jpg", "", None, 7, ["0.jpg"], ["a", "b"]]
            )
        },
        optional={
            "text": st.sampled_from(["what?", "", None, 7, ["a"]]),
            "questions": st.sampled_from([["a?", "b?"], [], "no list", [7], None]),
            "question_id": st.sampled_from(["q", 1, 1.0, None, [1]]),
        },
    ),
    min_size=1,
    max_size=12,
)
BROKEN = ("{", "[1]", '"text"', '{"image": "0.jpg", "text": "x"', "\x00", "{}")


@settings(max_examples=80)
@given(ROWS, st.lists(st.tuples(st.integers(0, 12), st.sampled_from(BROKEN)), max_size=4), st.integers(1, 5))
def test_every_line_is_a_question_or_a_fault(tmp_path_factory, rows, broken, slice_files):
    folder = _with_pictures(tmp_path_factory.mktemp("lines"))
    lines = [json.dumps(row) for row in rows]
    for place, text in broken:
        lines.insert(min(place, len(lines)), text)
    if "{" in (lines[0], lines[0].strip()):
        lines.insert(0, json.dumps(rows[0]))  # else it is one object over several lines
    (folder / "q.jsonl").write_text("\n".join(lines))
    source = Jsonl(path=str(folder / "q.jsonl"), slice_files=slice_files)
    accounted, planned = 0, 0
    for shard in source.shards(iter(_files(source)), HERE):
        planned += shard.samples
        for sample in samples_of(source, shard, HERE, lambda _: Want.ALL):
            several = len(sample.questions) if not (sample.fault or sample.question_fault) else 0
            accounted += 1
            assert several or sample.fault or sample.question_fault or _asks_nothing(rows)
    assert accounted == planned <= len(lines)


def _asks_nothing(rows) -> bool:
    """Tell whether a list of no questions is among the rows."""
    return any(row.get("questions") == [] and row.get("text") is None for row in rows)


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([jpeg(0), b"no picture", b"", None]),
            st.sampled_from(["what?", "", None]),
            st.sampled_from(["k", "", None]),
        ),
        max_size=40,
    ),
    st.integers(1, 9),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_every_row_of_a_table_is_a_sample_or_the_shard_is_at_fault(tmp_path_factory, rows, group, damage):
    folder = tmp_path_factory.mktemp("table")
    columns = zip(*rows, strict=True) if rows else [[], [], []]
    types = (pa.binary(), pa.string(), pa.string())
    arrays = [pa.array(list(column), kind) for column, kind in zip(columns, types, strict=True)]
    table = pa.table(dict(zip(("image", "question", "key"), arrays, strict=True)))
    pq.write_table(table, folder / "a.parquet", row_group_size=group)
    if damage is not None:
        data = bytearray((folder / "a.parquet").read_bytes())
        data[int(damage * (len(data) - 1))] ^= 0xFF
        (folder / "a.parquet").write_bytes(data)
    source = Parquet(path=str(folder), key_column="key")
    (shard,) = source.shards(iter(_files(source)), HERE)
    samples = []
    try:
        for sample in samples_of(source, shard, HERE, lambda _: Want.ALL):
            samples.append(sample)
    except ShardError:
        assert damage is not None
        return
    assert shard.samples == len(samples)
    if damage is None:
        assert len(samples) == len(rows) and all(sample.taken == (1, 0) for sample in samples)


@given(st.lists(st.lists(st.text(max_size=5), min_size=1, max_size=4), min_size=1, max_size=9))
def test_every_row_of_a_csv_is_a_sample(tmp_path_factory, rows):
    folder = _with_pictures(tmp_path_factory.mktemp("csv"))
    sink = io.StringIO()
    csv.writer(sink).writerows([["image", "text"], *(["0.jpg", *row] for row in rows)])
    (folder / "q.csv").write_bytes(sink.getvalue().encode("utf-8", "replace"))
    source = Jsonl(path=str(folder / "q.csv"))
    (shard,) = source.shards(iter(_files(source)), HERE)
    samples = list(samples_of(source, shard, HERE, lambda _: Want.ALL))
    faults = [sample for sample in samples if sample.fault]
    questions = [question for sample in samples for question in sample.questions]
    assert len(faults) == sum(len(row) > 1 for row in rows)
    assert len(questions) == sum(len(row) == 1 for row in rows)


def _with_pictures(folder: Path) -> Path:
    for n in (0, 1):
        (folder / f"{n}.jpg").write_bytes(jpeg(n, 16))
    return folder


def _files(source) -> list[File]:
    return [entry for entry in source.entries(HERE) if isinstance(entry, File)]
