"""Test the stages on one unit without Ray: real checkpoint, real pictures, two arms."""

import io
import json
import time
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.engines.transformers import Transformers
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.config import Decoding, Model
from pipeline.output.footers import FOOTER
from pipeline.output.units import Unit
from pipeline.stages.arms import Arm
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.imaging import Imaging
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.stages.write import ArmOutput, UnitStats, write_unit
from pipeline.storage.uris import Storage
from pipeline.support.schema import PREDICTIONS, SAMPLES
from tests.support.tars import jpeg
from trim import Full, Reduced, Trim

TEMPLATE = "USER: <image>\n{question} ASSISTANT:"


@dataclass(frozen=True)
class Picky:
    """A reducer that refuses dark images, like one that refuses overflowed scores."""

    threshold: float
    needs = frozenset({"metric", "text"})

    def __call__(self, x):
        dark = [
            index for index, patches in enumerate(x.patches) if float(patches.abs().mean()) < self.threshold
        ]
        if dark:
            raise ValueError(f"image {dark[0]} is too dark")
        return [Reduced(tokens=patches[:2], kept=torch.tensor([0, 1])) for patches in x.patches]


def png(color) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (50, 40), color).save(sink, "PNG")
    return sink.getvalue()


def unit_of(lines, end=True):
    """Make a unit row of (image bytes, questions, status) lines, as `read` yields it."""
    rows = [
        {
            "sample": index,
            "sample_key": f"s{index}",
            "image": image,
            "questions": [{"question_id": str(n), "question": text} for n, text in enumerate(questions)],
            "status": status,
            "error": None if status == "ok" else "told by the source",
        }
        for index, (image, questions, status) in enumerate(lines)
    ]
    requests = sum(max(1, len(questions)) for _, questions, _ in lines)
    trace = {
        "uri": "file:///a.tar",
        "requests": requests,
        "shard_error": None,
        "source_bytes": 1,
        "image_bytes": 1,
        "source_size": 9,
        "source_etag": "e",
    }
    row = UnitRow(Unit(3, 0, len(rows), end), {"samples": pa.Table.from_pylist(rows, schema=SAMPLES)}, trace)
    return pack_unit(row.passed("read", time.time(), row.tables))


@pytest.fixture(scope="module")
def stages(random_checkpoint):
    """Build decode, encode and generate for one model and two arms, as functions of a packed row."""
    llava, clip = str(random_checkpoint / "llava"), str(random_checkpoint / "clip")
    model = Model(name="random", path=llava, clip=clip, template=TEMPLATE, encode_batch_size=3)
    arms = (Arm("full", Full(), {}), Arm("trim", Trim(), {}))
    shared = {"model": model, "geometry": check_fit(random_checkpoint / "llava", random_checkpoint / "clip")}
    shared |= {"device": "cpu", "threads": None}
    encode = Encode(arms=arms, **shared)
    generate = Generate(
        arms=arms, engine=Transformers(), decoding=Decoding(max_new_tokens=5), seed=0, **shared
    )
    return lambda row: decode_unit(row, model=model, imaging=Imaging()), encode, generate, shared


LINES = [
    (jpeg(1), ["what is it?", "what color is it?"], "ok"),
    (b"no image", ["what is it?"], "ok"),
    (jpeg(2), ["what is it?", "   "], "ok"),
    (None, [], "bad_sample"),
    (jpeg(3), ["word " * 5000], "ok"),
    (jpeg(4), ["why?"], "ok"),
]


@pytest.fixture(scope="module")
def answered(stages):
    decode, encode, generate, _ = stages
    return unpack_unit(generate(encode(decode(unit_of(LINES)))))


def test_every_arm_has_one_row_for_each_request(answered):
    rows = answered.tables["requests"].to_pylist()
    for arm in (0, 1):
        rows_of_arm = [row for row in rows if row["arm"] == arm]
        assert [row["key"] for row in rows_of_arm] == [
            "000003-00000000-0000",
            "000003-00000000-0001",
            "000003-00000001-0000",
            "000003-00000002-0000",
            "000003-00000002-0001",
            "000003-00000003-0000",
            "000003-00000004-0000",
            "000003-00000005-0000",
        ]
        assert [row["status"] for row in rows_of_arm] == [
            "ok",
            "ok",
            "bad_image",
            "ok",
            "bad_question",
            "bad_sample",
            "bad_question",
            "ok",
        ]
        assert all((row["prediction"] is not None) == (row["status"] == "ok") for row in rows_of_arm)
        assert all((row["error"] is None) == (row["status"] == "ok") for row in rows_of_arm)


def test_full_keeps_all_patches_and_trim_fewer(answered):
    for row in answered.tables["requests"].to_pylist():
        if row["status"] != "ok":
            continue
        bits = np.unpackbits(np.frombuffer(row["kept_patches"], np.uint8))
        assert len(bits) == row["visual_tokens_full"] == 576
        aggregated = row["arm"]  # trim adds one token for the pruned patches
        assert bits.sum() + aggregated == row["visual_tokens_kept"]
        assert (row["visual_tokens_kept"] == 576) == (row["arm"] == 0)


def test_a_reduction_that_ignores_the_question_is_made_once_per_image(stages):
    decode, encode, *_ = stages
    row = unpack_unit(encode(decode(unit_of([(jpeg(1), ["a?", "b?", "c?"], "ok"), (jpeg(2), ["a?"], "ok")]))))
    visual = {
        arm: [r["visual"] for r in row.tables["requests"].to_pylist() if r["arm"] == arm] for arm in (0, 1)
    }
    assert len(set(visual[0])) == 2, "full: one per image"
    assert len(set(visual[1])) == 4, "trim: one per request"
    assert row.tables["tokens"].num_rows == 6


def test_answers_do_not_depend_on_the_unit(stages, answered):
    decode, encode, generate, _ = stages
    alone = unpack_unit(generate(encode(decode(unit_of([LINES[5]])))))
    expected = [row for row in answered.tables["requests"].to_pylist() if row["sample"] == 5]
    for row, of_unit in zip(alone.tables["requests"].to_pylist(), expected, strict=True):
        assert (row["prediction"], row["kept_patches"]) == (of_unit["prediction"], of_unit["kept_patches"])


def test_a_reducers_refusal_fails_only_its_row(stages):
    decode, encode, _, shared = stages
    row = decode(
        unit_of([(png("white"), ["a?"], "ok"), (png("black"), ["a?"], "ok"), (png("white"), ["a?"], "ok")])
    )
    pixels = unpack_unit(row).tables["images"]["pixels"]
    squares = torch.from_numpy(
        np.stack([np.frombuffer(p.as_buffer(), np.uint8) for p in pixels]).reshape(3, 336, 336, 3)
    )
    means = [
        float(patches.abs().mean())
        for patches in encode._encoder.encode_images(squares, frozenset())["patches"]
    ]
    assert means[1] != means[0]
    threshold = sum(means[:2]) / 2
    light, dark = (0, 1) if means[0] > means[1] else (1, 0)
    picky = Encode(arms=(Arm("picky", Picky(threshold), {}),), **shared)
    rows = unpack_unit(picky(row)).tables["requests"].to_pylist()
    assert rows[dark]["status"] == "failed"
    assert "too dark" in rows[dark]["error"]
    assert rows[light]["status"] == "ok"
    assert rows[light]["visual_tokens_kept"] == 2


def outputs(folder):
    return tuple(ArmOutput(str(folder / name), name, "fp", "run", "random") for name in ("full", "trim"))


def test_a_unit_is_written_as_one_file_per_arm(answered, tmp_path):
    packed = pack_unit(answered)
    stats = write_unit(packed, outputs=outputs(tmp_path), storage=Storage(), attempt="1")
    for name in ("full", "trim"):
        (file,) = (tmp_path / name / "data").iterdir()
        assert file.name == "000003-00000000-00000006-end.parquet"
        table = pq.read_table(file)
        assert table.schema.equals(PREDICTIONS)
        assert table.num_rows == 8
        assert set(table["reducer"].to_pylist()) == {name}
        footer = json.loads(pq.read_metadata(file).metadata[FOOTER])
        assert footer["totals"]["status"] == {"ok": 4, "bad_image": 1, "bad_question": 2, "bad_sample": 1}
        assert set(footer["stages"]) == {"read", "decode", "encode", "generate", "write"}
        assert all(visit["peak_memory_bytes"] > 1 << 20 for visit in footer["stages"].values())
    assert UnitStats.from_row(stats.to_pylist()[0]).unit == Unit(3, 0, 6, True)


def test_a_unit_that_lost_a_row_is_not_written(answered, tmp_path):
    requests = answered.tables["requests"]
    lossy = UnitRow(answered.unit, {"requests": requests.slice(1)}, answered.trace)
    with pytest.raises(AssertionError, match="lost or gained"):
        write_unit(pack_unit(lossy), outputs=outputs(tmp_path), storage=Storage(), attempt="1")
    assert not list(tmp_path.rglob("*.parquet"))


def test_two_units_in_one_batch_are_refused(answered):
    packed = pack_unit(answered)
    with pytest.raises(AssertionError, match="one unit"):
        unpack_unit(pa.concat_tables([packed, packed]))
