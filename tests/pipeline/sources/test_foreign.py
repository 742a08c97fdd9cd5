"""Test sources on files written by other libraries."""

import io
import json

import datasets
import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from pipeline.sources.base import Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from pipeline.support.errors import ConfigError, ShardError
from pipeline.verify.verify import Verification, verify
from tests.support.quick import lasting_rows, quick_answer
from tests.support.s3 import BUCKET
from tests.support.tars import jpeg

HERE = Storage()
PICTURES = [jpeg(seed) for seed in range(5)]


def samples(source, storage=HERE, want=lambda index: Want.ALL):
    shards = list(source.shards(files_of(source, storage), storage))
    return [sample for shard in shards for sample in source.samples(shard, storage, want)]


def questions_of(sample):
    return [(question.question_id, question.text) for question in sample.questions]


def faults(samples_read):
    found = [sample.fault or sample.question_fault for sample in samples_read]
    return [fault and (fault.status, str(fault)) for fault in found]


def test_tars_of_webdataset(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as sink:
        for index, picture in enumerate(PICTURES):
            image = Image.open(io.BytesIO(picture))
            sink.write({"__key__": f"k{index}", "png": image, "json": {"question": f"what {index}?"}})
    samples_read = samples(WebDataset(path=str(tmp_path)))
    assert [(sample.key, questions_of(sample)) for sample in samples_read] == [
        (f"k{i}", [("", f"what {i}?")]) for i in range(5)
    ]
    pixels = [Image.open(io.BytesIO(sample.image)).tobytes() for sample in samples_read]
    assert pixels == [Image.open(io.BytesIO(picture)).convert("RGB").tobytes() for picture in PICTURES]


def test_parquet_of_datasets_with_its_image_type(tmp_path):
    rows = {
        "image": [Image.open(io.BytesIO(picture)) for picture in PICTURES],
        "question": [f"what {index}?" for index in range(5)],
        "qid": [10 * index for index in range(5)],
    }
    datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image()).to_parquet(tmp_path / "a.parquet")
    kind = pq.read_schema(tmp_path / "a.parquet").field("image").type
    assert pa.types.is_struct(kind), "the image column must be a struct {bytes, path}"
    samples_read = samples(Parquet(path=str(tmp_path), question_id_column="qid"))
    assert faults(samples_read) == [None] * 5
    assert [questions_of(sample) for sample in samples_read] == [
        [(str(10 * i), f"what {i}?")] for i in range(5)
    ]
    assert all(Image.open(io.BytesIO(sample.image)).size for sample in samples_read)


@pytest.mark.parametrize("writer", ["pandas", "duckdb"])
def test_pandas_and_duckdb_with_bytes(tmp_path, writer):
    frame = pandas.DataFrame(
        {
            "jpg": PICTURES,
            "name": [f"n{index}" for index in range(5)],
            "ask": [[f"what {index}?", "why?"] for index in range(5)],
            "unread": ["x" * 1000] * 5,
        }
    )
    target = tmp_path / "a.parquet"
    if writer == "pandas":
        frame.to_parquet(target)
    else:
        duckdb.sql(f"COPY (SELECT * FROM frame) TO '{target}' (FORMAT parquet)")
    samples_read = samples(Parquet(path=str(target), key_column="name", questions_column="ask"))
    assert [sample.image for sample in samples_read] == PICTURES
    assert [sample.key for sample in samples_read] == [f"n{index}" for index in range(5)]
    assert [questions_of(sample) for sample in samples_read] == [
        [("", f"what {i}?"), ("", "why?")] for i in range(5)
    ]


def test_a_column_of_paths(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index, picture in enumerate(PICTURES):
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(picture)
    paths = [f"{index}.jpg" for index in range(5)] + ["../a.parquet", "missing.jpg", "/etc/hostname", None]
    pandas.DataFrame({"image_path": paths}).to_parquet(tmp_path / "a.parquet")
    samples_read = samples(Parquet(path=str(tmp_path / "a.parquet"), image_root=str(tmp_path / "pictures")))
    assert [sample.image for sample in samples_read[:5]] == PICTURES
    path_faults = faults(samples_read)[5:]
    assert [status for status, _ in path_faults] == ["bad_sample", "bad_image", "bad_sample", "bad_sample"]
    assert (
        "not below" in path_faults[0][1]
        and "missing.jpg" in path_faults[1][1]
        and "no image" in path_faults[3][1]
    )


def test_img2dataset_as_parquet_alone(tmp_path):
    """Its columns: a null image and an error message where a download failed."""
    table = pa.table(
        {
            "key": ["000000000", "000000001", "000000002"],
            "url": ["http://a/1", "http://a/2", "http://a/3"],
            "caption": ["a cat", None, "a dog"],
            "status": ["success", "failed_to_download", "success"],
            "error_message": [None, "HTTP Error 404", None],
            "width": pa.array([64, None, 64], pa.int32()),
            "jpg": pa.array([PICTURES[0], None, PICTURES[2]], pa.binary()),
        }
    )
    pq.write_table(table, tmp_path / "00000.parquet")
    samples_read = samples(Parquet(path=str(tmp_path), key_column="key"))
    assert [sample.key for sample in samples_read] == ["000000000", "000000001", "000000002"]
    assert [sample.image for sample in samples_read] == [PICTURES[0], None, PICTURES[2]]
    assert faults(samples_read) == [None, ("bad_sample", "the row has no image"), None]


def test_img2dataset_as_tars_with_a_table_beside(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "00000.tar")) as sink:
        for index, picture in enumerate(PICTURES):
            meta = {"caption": "a cat", "url": "http://a", "key": f"{index:09d}", "status": "success"}
            sink.write({"__key__": f"{index:09d}", "jpg": picture, "txt": "a cat", "json": meta})
    pq.write_table(pa.table({"key": [f"{index:09d}" for index in range(5)]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    samples_read = samples(WebDataset(path=str(tmp_path)))
    assert [sample.image for sample in samples_read] == PICTURES
    assert [questions_of(sample) for sample in samples_read] == [[("", "a cat")]] * 5, (
        "the caption is the text beside the image"
    )


def write_groups(path, rows, per_group, **options):
    table = pa.table({"image": [jpeg(seed) for seed in range(rows)], "n": list(range(rows))})
    pq.write_table(table, path, row_group_size=per_group, compression="none", **options)
    return path


def test_unwanted_rows_are_not_read(tmp_path):
    source = Parquet(path=str(write_groups(tmp_path / "a.parquet", 40, 10)))
    samples_read = samples(source, want=lambda index: Want.ALL if 25 <= index < 33 else Want.NOTHING)
    assert [index for index, sample in enumerate(samples_read) if sample is not None] == list(range(25, 33))
    assert [sample.image for sample in samples_read[25:33]] == [jpeg(seed) for seed in range(25, 33)]


def test_flipped_bytes_in_a_page_are_faults_of_its_rows_only(tmp_path):
    path = write_groups(tmp_path / "a.parquet", 40, 10, write_page_checksum=True, use_dictionary=False)
    column = pq.ParquetFile(path).metadata.row_group(1).column(0)
    data = bytearray(path.read_bytes())
    middle = column.data_page_offset + column.total_compressed_size // 2
    data[middle : middle + 64] = bytes(64)
    path.write_bytes(data)
    samples_read = samples(Parquet(path=str(path)))
    assert [index for index, sample in enumerate(samples_read) if sample.fault] == list(range(10, 20))
    assert {sample.fault.status for sample in samples_read if sample.fault} == {"bad_sample"}
    assert all("row group 1" in str(sample.fault) for sample in samples_read[10:20])
    assert [sample.image for sample in samples_read[20:]] == [jpeg(seed) for seed in range(20, 40)]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "schema"])
def test_a_file_that_cannot_be_opened_is_a_shard_error(tmp_path, damage):
    path = write_groups(tmp_path / "a.parquet", 5, 5)
    content = {"truncated": path.read_bytes()[:-100], "empty": b"", "text": b"no parquet " * 20}
    if damage == "schema":
        pq.write_table(pa.table({"other": [1]}), path)
    else:
        path.write_bytes(content[damage])
    with pytest.raises(ShardError, match="no image column" if damage == "schema" else "cannot be opened"):
        samples(Parquet(path=str(path)))


def llava(tmp_path, lines):
    (tmp_path / "images").mkdir()
    for index, picture in enumerate(PICTURES):
        (tmp_path / "images" / f"{index}.jpg").write_bytes(picture)
    (tmp_path / "q.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return dict(path=str(tmp_path / "q.jsonl"), image_root=str(tmp_path / "images"))


def line(index, number=0):
    return json.dumps(
        {
            "question_id": 100 * index + number,
            "image": f"{index}.jpg",
            "text": f"what {number}?",
            "category": "x",
        }
    ).encode()


def test_consecutive_lines_with_one_image_are_one_sample(tmp_path):
    options = llava(tmp_path, [line(0), line(0, 1), line(1), b"", line(0, 2), line(2)])
    samples_read = samples(Jsonl(**options))
    assert [sample.key for sample in samples_read] == ["0.jpg", "1.jpg", "0.jpg", "2.jpg"]
    assert questions_of(samples_read[0]) == [("0", "what 0?"), ("1", "what 1?")]
    assert [sample.image for sample in samples_read] == [PICTURES[0], PICTURES[1], PICTURES[0], PICTURES[2]]


@pytest.mark.parametrize("slice_files", [1, 2, 3, 100])
def test_slices_of_a_jsonl_never_cut_a_sample(tmp_path, slice_files):
    lines = [line(index % 5, number) for index in range(8) for number in range(1 + index % 3)]
    options = llava(tmp_path, lines)
    expected = samples(Jsonl(**options))
    source = Jsonl(**options, slice_files=slice_files)
    shards = list(source.shards(files_of(source, HERE), HERE))
    assert sum(shard.samples for shard in shards) == len(expected) == 8
    assert sum(shard.size for shard in shards) == (tmp_path / "q.jsonl").stat().st_size
    samples_read = samples(source)
    assert [(sample.key, questions_of(sample)) for sample in samples_read] == [
        (s.key, questions_of(s)) for s in expected
    ]


def test_faulty_lines_are_rows_and_their_neighbours_are_read(tmp_path):
    lines = [
        line(0),
        b"{not json",
        b"[1]",
        b'{"text": "no image named"}',
        b'{"image": "gone.jpg", "text": "?"}',
        b'{"image": "../q.jsonl", "text": "?"}',
        b'\xff\xfe{"image": 1}',
        b'{"image": "1.jpg", "text": 7}',
        line(2),
    ]
    samples_read = samples(Jsonl(**llava(tmp_path, lines)))
    line_faults = faults(samples_read)
    assert line_faults[0] is None and line_faults[-1] is None
    assert [fault[0] for fault in line_faults[1:-1]] == ["bad_sample"] * 3 + ["bad_image"] + [
        "bad_sample"
    ] * 3


def test_an_empty_jsonl_is_one_empty_shard(tmp_path):
    (tmp_path / "q.jsonl").write_bytes(b"")
    assert samples(Jsonl(path=str(tmp_path / "q.jsonl"))) == []


@pytest.mark.parametrize("kind", [Parquet, Jsonl])
def test_a_folder_without_matching_files_is_refused(tmp_path, kind):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match=r"source\.path: no \."):
        samples(kind(path=str(tmp_path)))


def test_parquet_and_jsonl_on_s3(s3, tmp_path):
    """A store gives the same samples as the disk."""
    options = llava(tmp_path, [line(0), line(0, 1), line(1), line(2)])
    write_groups(tmp_path / "a.parquet", 30, 10)
    fs, root = s3.open(f"s3://{BUCKET}/foreign")
    fs.put(str(tmp_path / "images") + "/", f"{root}/images/", recursive=True)
    for name in ("q.jsonl", "a.parquet"):
        fs.put_file(str(tmp_path / name), f"{root}/{name}")
    far = samples(Jsonl(path=f"s3://{root}/q.jsonl", image_root=f"s3://{root}/images"), s3)
    assert far == samples(Jsonl(**options))
    assert samples(Parquet(path=f"s3://{root}/*.parquet"), s3) == samples(
        Parquet(path=str(tmp_path / "a.parquet"))
    )


@pytest.mark.parametrize("folder", ["", "d\udce9/"])
def test_file_names_that_are_not_utf8_are_rows_to_the_end(tmp_path, folder):
    """Planned, read, proved and summed up; different names stay different."""
    place = tmp_path / "in"
    (place / folder).mkdir(parents=True)
    for name in ("caf\udce9.jpg", "caf\udce8.jpg", "caf\uf7e7.jpg", "é.jpg"):
        (place / f"{folder}{name}").write_bytes(jpeg(len(name)))
    (place / f"{folder}caf\udce9.json").write_text('{"question": "what?"}')
    quick_answer(Images(path=str(place)), tmp_path / "out")
    (result,) = verify(Verification(output=str(tmp_path / "out"), deep=True), HERE)
    assert result.ok and result.rows == 4, list(result.lines())
    rows = {row["sample_key"]: row["question"] for row in lasting_rows(tmp_path / "out")}
    shown = folder.replace("\udce9", "\\xe9")
    assert rows.keys() == {
        f"{shown}{name}" for name in ("caf\\xe9.jpg", "caf\\xe8.jpg", "caf\\xe7.jpg", "é.jpg")
    }
    assert rows[f"{shown}caf\\xe9.jpg"] == "what?"
