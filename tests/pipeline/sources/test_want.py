"""Test reading questions without images: equal keys and questions, and no image is read."""

import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.archive import Archive
from pipeline.sources.base import Want, files_of
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.task import Task, requests_of
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.read import sample_row
from pipeline.storage.uris import Storage
from pipeline.support.errors import ShardError
from tests.support.corpus import members
from tests.support.tars import add, jpeg, write_tar

HERE = Storage()
TASKS = (Task(source_questions=True), Task(prompts=["Describe."], source_questions=True))


def outcome_of(source, want, shards=None):
    """List each task's requests for every sample, and whether the last shard breaks off."""
    outcome = []
    for shard in shards or list(source.shards(files_of(source, HERE), HERE)):
        try:
            for index, sample in enumerate(source.samples(shard, HERE, lambda _: want)):
                for task in TASKS:
                    row = sample_row(sample, index, task, 8, HERE)
                    outcome.append((row["sample_key"], requests_of(shard.shard, row)))
        except ShardError:
            outcome.append("breaks off")
    return outcome


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index}.jpg").write_bytes(jpeg(index))
    return folder


def test_every_kind_of_tar_member(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for parts, _ in members().values():
            for name, content in parts:
                if len(content) > 1:
                    add(tar, name, content)
                else:
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = content, "/etc/hostname"
                    tar.addfile(info)
    source = WebDataset(path=str(tmp_path))
    with_images = outcome_of(source, Want.ALL)
    assert len(with_images) == 2 * len(members())
    assert outcome_of(source, Want.QUESTIONS) == with_images


def test_a_tar_cut_off_anywhere(tmp_path):
    path = write_tar(tmp_path / "a.tar", 3, questions=3, width=24)
    data = path.read_bytes()
    kinds = set()
    for cut in range(0, len(data), 173):
        path.write_bytes(data[:cut])
        with_images = outcome_of(WebDataset(path=str(path)), Want.ALL)
        assert outcome_of(WebDataset(path=str(path)), Want.QUESTIONS) == with_images, cut
        kinds.add((len(with_images), with_images[-1] == "breaks off"))
    assert len(kinds) >= 4


def table(path: Path, rows: int = 40) -> Path:
    """Write rows in two groups whose images take up most of the file."""
    columns = {
        "image": [jpeg(index) for index in range(rows)],
        "questions": [[f"what {index}?"] * (index % 3) for index in range(rows)],
        "name": [f"n{index}" for index in range(rows)],
    }
    pq.write_table(pa.table(columns), path, row_group_size=20, write_page_checksum=True, compression=None)
    return path


@pytest.mark.slow
def test_a_parquet_file_damaged_anywhere(tmp_path):
    path = table(tmp_path / "a.parquet")
    source, data = Parquet(path=str(path), key_column="name"), path.read_bytes()
    undamaged = outcome_of(source, Want.ALL)
    assert outcome_of(source, Want.QUESTIONS) == undamaged
    faults = 0
    for place in range(60, len(data), len(data) // 60):
        path.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
        with_images = outcome_of(source, Want.ALL)
        assert outcome_of(source, Want.QUESTIONS) == with_images, place
        faults += any(sample.fault for sample in read(source, Want.ALL)) and with_images == undamaged
    assert faults > 30, "an unreadable image loses no question"


def read(source, want):
    try:
        for shard in source.shards(files_of(source, HERE), HERE):
            yield from source.samples(shard, HERE, lambda _: want)
    except ShardError:
        pass


@pytest.mark.parametrize("kind", ["images", "jsonl", "paths"])
def test_image_files_are_not_opened(tmp_path, kind):
    folder = pictures(tmp_path / "in", 4)
    lines = [{"image": f"{index // 2}.jpg", "text": f"what {index}?"} for index in range(8)]
    (folder / "q.jsonl").write_text("\n".join(map(json.dumps, [*lines, {"image": "../x"}, {}])))
    pq.write_table(pa.table({"image_path": ["0.jpg", None, "/etc/x"], "question": ["a?", "b?", "c?"]}),
                   folder / "q.parquet")  # fmt: skip
    for index in range(3):
        (folder / f"{index}.json").write_text(json.dumps({"questions": ["who?"] * (index + 1)}))
    source = {
        "images": Images(path=str(folder)),
        "jsonl": Jsonl(path=str(folder / "q.jsonl"), image_root=str(folder)),
        "paths": Parquet(path=str(folder / "q.parquet"), image_root=str(folder)),
    }[kind]
    shards = list(source.shards(files_of(source, HERE), HERE))
    with_images = outcome_of(source, Want.ALL, shards)
    for image in folder.glob("*.jpg"):
        image.unlink()
    assert outcome_of(source, Want.QUESTIONS, shards) == with_images
    assert not any(s.image for shard in shards for s in source.samples(shard, HERE, lambda _: Want.QUESTIONS))
    assert any(s.fault for shard in shards for s in source.samples(shard, HERE, lambda _: Want.ALL))


def test_images_in_a_tar_are_not_read(tmp_path, monkeypatch):
    read_members, plain = [], Archive.content

    def recorded(archive, member):
        read_members.append(member.name)
        return plain(archive, member)

    monkeypatch.setattr(Archive, "content", recorded)
    tar = WebDataset(path=str(write_tar(tmp_path / "a.tar", 5)))
    assert all(sample.image == b"" for sample in read(tar, Want.QUESTIONS))
    assert [name.rpartition(".")[2] for name in read_members] == ["json"] * 5


def test_the_image_column_is_not_read(tmp_path, monkeypatch):
    read_columns, plain = set(), pq.ParquetFile.iter_batches

    def recorded(file, *args, columns: list[str], **options):
        for batch in plain(file, *args, columns=columns, **options):
            read_columns.update(columns)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", recorded)
    source = Parquet(path=str(table(tmp_path / "a.parquet")))
    assert len(list(read(source, Want.QUESTIONS))) == 40
    assert read_columns == {"questions"}
