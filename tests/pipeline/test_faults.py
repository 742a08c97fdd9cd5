"""Nothing that a corpus of faulty inputs holds stops the run, and every row has the expected status."""

import json
import tarfile
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus import Case, encoded, images, picture, questions, sidecar
from tars import add

from pipeline.arms import Arm
from pipeline.config import Decoding, Model
from pipeline.engines.transformers import Transformers
from pipeline.imaging import Imaging
from pipeline.models.checkpoint import check_fit
from pipeline.sources.images import Images
from pipeline.sources.jsonl import Jsonl
from pipeline.sources.parquet import Parquet
from pipeline.sources.webdataset import WebDataset
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.read import read_shard
from pipeline.stages.write import ArmOutput, write_unit
from pipeline.storage import Storage
from pipeline.tasks import Task
from pipeline.units import UnitLimits
from trim import Trim

HERE = Storage()
CASES = [case for seed in (0, 1) for case in (*images(seed), *questions(seed))]


@pytest.fixture(scope="module")
def answer(random_checkpoint):
    """All stages in a row, as Ray would run them on each unit; yields the rows that were written."""
    llava, clip = str(random_checkpoint / "llava"), str(random_checkpoint / "clip")
    template = "USER: <image>\n{question} ASSISTANT:"
    model = Model(name="random", path=llava, clip=clip, template=template)
    arms = (Arm("trim", Trim(), {}),)
    shared = {"model": model, "geometry": check_fit(random_checkpoint / "llava", random_checkpoint / "clip")}
    shared |= {"device": "cpu", "threads": None, "arms": arms}
    encode = Encode(**shared)
    generate = Generate(engine=Transformers(), decoding=Decoding(max_new_tokens=2), seed=0, **shared)
    task = Task(source_questions=True)

    def run(source, output):
        for shard in source.shards(source.entries(HERE), HERE):
            units = read_shard(
                source, shard, storage=HERE, task=task, limits=UnitLimits(unit_samples=16), finished={}
            )
            for unit in units:
                decoded = decode_unit(unit, checkpoint=llava, imaging=Imaging())
                outputs = (ArmOutput(str(output), "trim", "fp", "run", "random"),)
                write_unit(generate(encode(decoded)), outputs=outputs, storage=HERE, attempt="1")
        return pq.read_table(output / "data").sort_by("key").to_pylist()

    return run


def as_webdataset(folder, cases):
    with tarfile.open(folder / "a.tar", "w") as tar:
        for index, case in enumerate(cases):
            if case.image is not None:
                add(tar, f"{index:06d}.jpg", case.image)
            add(tar, f"{index:06d}.json", sidecar(case))
    return WebDataset(path=str(folder))


def as_images(folder, cases):
    for index, case in enumerate(cases):
        (folder / f"{index:06d}.jpg").write_bytes(case.image)
        (folder / f"{index:06d}.json").write_bytes(sidecar(case))
    return Images(path=str(folder), slice_files=30)


def as_parquet(folder, cases):
    table = pa.table({"image": [c.image for c in cases], "questions": [list(c.questions) for c in cases]})
    pq.write_table(table, folder / "a.parquet", row_group_size=20)
    return Parquet(path=str(folder))


def as_jsonl(folder, cases):
    lines = []
    for index, case in enumerate(cases):
        (folder / f"{index:06d}.jpg").write_bytes(case.image)
        for text in case.questions or [None]:
            lines.append(json.dumps({"question_id": len(lines), "image": f"{index:06d}.jpg", "text": text}))
    (folder / "q.jsonl").write_text("\n".join(lines))
    return Jsonl(path=str(folder / "q.jsonl"), slice_files=30)


@pytest.mark.parametrize("write", [as_webdataset, as_images, as_parquet, as_jsonl])
def test_every_row_of_the_corpus_has_the_expected_status(tmp_path, answer, write):
    assert len(CASES) * 4 >= 300, "the corpus over all formats"
    (tmp_path / "in").mkdir()
    rows = answer(write(tmp_path / "in", CASES), tmp_path / "out")
    expected = [(case.name, status) for case in CASES for status in case.statuses]
    found = [row["status"] for row in rows]
    assert [(name, status) for (name, _), status in zip(expected, found, strict=True)] == expected
    for row in rows:
        assert (row["error"] is None) == (row["status"] == "ok") == (row["prediction"] is not None)
        assert "\n" not in (row["error"] or ""), "an error is one line"


def members():
    """(name, content or tar type, what a key's row must be) of one tar, in order."""
    image, ask = encoded(picture(7), "JPEG"), b'{"question": "what?"}'
    big = b'{"question": "' + b"x" * (50 << 20) + b'"}'
    return {
        "fine": ([("fine.jpg", image), ("fine.json", ask)], "ok"),
        "no image": ([("a.json", ask)], "bad_sample"),
        "two images": ([("b.jpg", image), ("b.png", image), ("b.json", ask)], "bad_sample"),
        "not json": ([("c.jpg", image), ("c.json", b"{,")], "bad_sample"),
        "no object": ([("d.jpg", image), ("d.json", b'"what?"')], "bad_sample"),
        "deep json": ([("e.jpg", image), ("e.json", b"[" * 100_000)], "bad_sample"),
        "50 MB": ([("f.jpg", image), ("f.json", big)], "bad_sample"),
        "not utf-8": ([("g.jpg", image), ("g.txt", b"\xff\xfe\xfd")], "bad_question"),
        "not utf-8 json": ([("h.jpg", image), ("h.json", b'{"question": "\xff"}')], "bad_sample"),
        "symbolic link": ([("i.jpg", tarfile.SYMTYPE), ("i.json", ask)], "bad_sample"),
        "hard link": ([("j.jpg", tarfile.LNKTYPE), ("j.json", ask)], "bad_sample"),
        "device": ([("k.jpg", tarfile.CHRTYPE), ("k.json", ask)], "bad_sample"),
        "pipe": ([("l.jpg", tarfile.FIFOTYPE), ("l.json", ask)], "bad_sample"),
        "absolute": ([("/etc/m.jpg", image), ("/etc/m.json", ask)], "ok"),
        "dots": ([("../../n.jpg", image), ("../../n.json", ask)], "ok"),
        "key once": ([("o.jpg", image), ("o.json", ask)], "ok"),
        "key twice": ([("o.jpg", image), ("o.json", ask)], "ok"),
        "long name": ([("p" * 300 + ".jpg", image), ("p" * 300 + ".json", ask)], "ok"),
        "capitals": ([("q.JPG", image), ("q.JSON", ask)], "ok"),
        "last": ([("z.jpg", image), ("z.json", ask)], "ok"),
    }


def test_every_member_that_a_tar_can_hold(tmp_path, answer):
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "a.tar", "w") as tar:
        for parts, _ in members().values():
            for name, content in parts:
                if isinstance(content, bytes) and len(content) > 1:
                    add(tar, name, content)
                else:
                    info = tarfile.TarInfo(name)
                    info.type, info.linkname = content, "/etc/hostname"
                    tar.addfile(info)
    rows = answer(WebDataset(path=str(tmp_path / "in")), tmp_path / "out")
    expected = {name: status for name, (_, status) in members().items()}
    assert dict(zip(expected, (row["status"] for row in rows), strict=True)) == expected
    assert not (tmp_path.parent / "n.jpg").exists(), "names are names, nothing is unpacked"


def test_shards_that_break_lose_no_neighbour(tmp_path, answer):
    (tmp_path / "in").mkdir()
    good = [Case(f"{seed}", encoded(picture(seed), "JPEG")) for seed in range(12)]
    for name in ("cut", "spoilt", "whole"):
        as_webdataset(tmp_path / "in", good)
        (tmp_path / "in" / "a.tar").rename(tmp_path / "in" / f"{name}.tar")
    with tarfile.open(tmp_path / "in" / "cut.tar") as tar:
        offset = tar.getmember("000006.jpg").offset
    cut, spoilt = tmp_path / "in" / "cut.tar", tmp_path / "in" / "spoilt.tar"
    cut.write_bytes(cut.read_bytes()[: offset + 700])
    data = bytearray(spoilt.read_bytes())
    data[offset : offset + 512] = b"\xaa" * 512
    spoilt.write_bytes(data)
    rows = answer(WebDataset(path=str(tmp_path / "in")), tmp_path / "out")
    counts = Counter((row["source"].rpartition("/")[2], row["status"]) for row in rows)
    assert counts == {
        ("cut.tar", "ok"): 6,
        ("cut.tar", "bad_sample"): 1,
        ("spoilt.tar", "ok"): 6,
        ("whole.tar", "ok"): 12,
    }
