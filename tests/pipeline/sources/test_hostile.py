"""Test hostile Parquet and JSONL files: neither their declared nor their real sizes exceed the limits."""

import json
import pickle

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.base import files_of
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.records import MAX_RECORD_BYTES
from pipeline.support import memory
from pipeline.support.errors import ShardError
from tests.pipeline.sources.test_foreign import HERE, faults, questions_of, samples
from tests.support.measured import at_most
from tests.support.tars import jpeg

pytestmark = pytest.mark.usefixtures("nothing_kept")


def test_the_memory_limit_applies_only_inside_the_block():
    with pytest.raises(MemoryError), memory.at_most(64 << 20):
        bytearray(256 << 20)
    assert len(bytearray(256 << 20)) == 256 << 20


@pytest.mark.slow
def test_a_value_shared_by_many_rows_does_not_exhaust_memory(tmp_path):
    """Sixteen rows refer to one image of zeros: a file of some KB that decodes to gigabytes."""
    zeros = pa.array([bytes(100 << 20)], pa.binary())
    table = pa.table({"image": pa.DictionaryArray.from_arrays(pa.array([0] * 16, pa.int32()), zeros)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", store_schema=False)
    del zeros, table
    assert (tmp_path / "a.parquet").stat().st_size < 1 << 20
    with at_most(2 << 30):
        samples_read = samples(Parquet(path=str(tmp_path)))
    assert [fault and fault[0] for fault in faults(samples_read)] == ["bad_sample"] * 16
    assert "row group 0 cannot be read from row 0 on" in str(samples_read[0].fault)


def promising(path, rows):
    """Write a Parquet file whose footer declares `rows` rows instead of 100."""
    table = pa.table({"image": [jpeg(seed) for seed in range(100)]})
    pq.write_table(table, path, compression="none")
    data = path.read_bytes()
    size = int.from_bytes(data[-8:-4], "little")
    footer = data[-8 - size : -8]
    assert footer.count(varint(100)) >= 2
    footer = footer.replace(b"\x16" + varint(100), b"\x16" + varint(rows))
    path.write_bytes(data[: -8 - size] + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    return Parquet(path=str(path))


def varint(value):
    """Encode a number as Thrift does."""
    value, out = value << 1, b""
    while value > 127:
        value, out = value >> 7, out + bytes([value & 127 | 128])
    return out + bytes([value])


@pytest.mark.timeout(120)
def test_a_footer_with_an_impossible_row_count_is_refused(tmp_path):
    with pytest.raises(ShardError, match=r"footer promises|cannot be opened"):
        samples(promising(tmp_path / "a.parquet", 1 << 50))


def test_a_text_that_is_not_utf8_is_a_fault_of_its_row_only(tmp_path):
    texts = [b"what?", b"\xff\xfe", b"why?"]
    column = pa.array(texts, pa.binary()).view(pa.string())
    pq.write_table(
        pa.table({"image": [jpeg(seed) for seed in range(3)], "question": column}), tmp_path / "a.parquet"
    )
    samples_read = samples(Parquet(path=str(tmp_path)))
    assert [fault and fault[0] for fault in faults(samples_read)] == [None, "bad_sample", None]
    assert questions_of(samples_read[2]) == [("", "why?")]


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w')",)


def test_no_pickle_in_a_parquet_file_is_read(tmp_path):
    """Neither that of an extension type, which older pyarrow unpickled, nor that of pandas."""
    mark = tmp_path / "mark"
    evil = pickle.dumps(Evil(mark))
    extension = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": evil}
    schema = pa.schema([pa.field("image", pa.binary(), metadata=extension)], metadata={"pandas": evil})
    pq.write_table(pa.table({"image": [jpeg(1)]}, schema=schema), tmp_path / "a.parquet")
    (sample,) = samples(Parquet(path=str(tmp_path)))
    assert sample.image == jpeg(1) or sample.fault
    assert not mark.exists()
    pickle.loads(evil)
    assert mark.exists(), "the pickle must work, or this test proves nothing"


def write_lines(tmp_path, lines):
    (tmp_path / "1.jpg").write_bytes(jpeg(1))
    (tmp_path / "q.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return Jsonl(path=str(tmp_path / "q.jsonl"), slice_files=2)


LINE = b'{"image": "1.jpg", "text": "what?"}'


@pytest.mark.slow
def test_an_endless_line_is_skipped_in_pieces(tmp_path):
    endless = b'{"image": "' + b"x" * (2 * MAX_RECORD_BYTES)
    source = write_lines(tmp_path, [LINE, endless, LINE])
    with at_most(4 * MAX_RECORD_BYTES):
        samples_read = samples(source)
    assert [fault and fault[0] for fault in faults(samples_read)] == [None, "bad_sample", None]
    assert "too long" in str(samples_read[1].fault)
    shards = list(source.shards(files_of(source, HERE), HERE))
    assert sum(shard.size for shard in shards) == (tmp_path / "q.jsonl").stat().st_size


@pytest.mark.parametrize(("lines", "length"), [(10_500, 1), (40, 100_000)])
def test_too_many_questions_for_one_image_are_one_fault(tmp_path, lines, length):
    asking = json.dumps({"image": "1.jpg", "text": "x" * length}).encode()
    last_line = json.dumps({"image": "./1.jpg", "text": "?"}).encode()
    samples_read = samples(write_lines(tmp_path, [asking] * lines + [last_line]))
    assert [sample.key for sample in samples_read] == ["1.jpg", "./1.jpg"]
    assert (
        str(samples_read[0].fault) == f"{lines} lines ask too much of one image"
        and samples_read[1].fault is None
    )
