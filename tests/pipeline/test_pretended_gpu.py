"""Test encode and generate on the pretended CUDA device: the CPU's bits, and few waits for the device."""

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.engines.transformers import Transformers
from pipeline.models.checkpoints.fit import Geometry, check_fit
from pipeline.models.checkpoints.kinds import KINDS
from pipeline.models.config import Decoding, Model
from pipeline.output.units import Unit
from pipeline.stages.arms import Arm
from pipeline.stages.decode import decode_unit
from pipeline.stages.encode import Encode
from pipeline.stages.generate import Generate
from pipeline.stages.imaging import Imaging
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.support.schema import SAMPLES
from tests.support import siglip_checkpoint
from tests.support.pretended_cuda import pretended_cuda
from tests.support.runs import TEMPLATE, lasting
from tests.trim.batches import configured

QUESTIONS = ("what is it?", "how many red things are there in the picture, and where?")


@dataclasses.dataclass(frozen=True)
class Family:
    """Holds a model, its geometry and the reducers that its towers can serve."""

    model: Model
    geometry: Geometry
    reducers: dict

    def encode(self, device, *reducers, **changes):
        model = dataclasses.replace(self.model, **changes)
        arms = tuple(Arm(name, self.reducers[name], {}) for name in reducers)
        return Encode(arms=arms, model=model, geometry=self.geometry, device=device, threads=None)


def family_of(folder, template) -> Family:
    model = Model(
        name="tiny",
        path=str(folder / "llava"),
        clip=str(folder / "clip"),
        template=template,
        encode_batch_size=4,
    )
    geometry = check_fit(folder / "llava", folder / "clip")
    lacks = KINDS[geometry.kind].lacks
    return Family(model, geometry, {name: r for name, r in configured().items() if not r.needs & lacks})


@pytest.fixture(scope="module")
def families(tmp_path_factory, random_checkpoint) -> dict[str, Family]:
    siglip = siglip_checkpoint.make_siglip(tmp_path_factory.mktemp("siglip"))
    return {
        "clip": family_of(random_checkpoint, TEMPLATE),
        "siglip": family_of(siglip, siglip_checkpoint.TEMPLATE),
    }


def png(seed: int) -> bytes:
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).resize((90, 80)).save(sink, "PNG")
    return sink.getvalue()


def decoded_unit(model: Model, images: int) -> pa.Table:
    """Make a unit of random pictures with two questions each, as decode yields it."""
    rows = [
        {
            "sample": n,
            "sample_key": f"s{n}",
            "image": png(n),
            "questions": [{"question_id": str(i), "question": text} for i, text in enumerate(QUESTIONS)],
            "status": "ok",
            "error": None,
        }
        for n in range(images)
    ]
    row = UnitRow(Unit(0, 0, images, True), {"samples": pa.Table.from_pylist(rows, schema=SAMPLES)}, {})
    return decode_unit(pack_unit(row), model=model, imaging=Imaging())


def tables_of(packed: pa.Table) -> dict[str, list]:
    tables = {name: table.to_pylist() for name, table in unpack_unit(packed).tables.items()}
    return {name: lasting(lines) if name == "requests" else lines for name, lines in tables.items()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_encode_gives_the_cpus_bits_under_every_reducer(families, name, dtype):
    family = families[name]
    unit = decoded_unit(family.model, 5)
    expected = tables_of(family.encode("cpu", *family.reducers, encode_dtype=dtype)(unit))
    with pretended_cuda():
        assert tables_of(family.encode("cuda", *family.reducers, encode_dtype=dtype)(unit)) == expected
    assert len(expected["requests"]) == 10 * len(family.reducers)
    assert {line["status"] for line in expected["requests"]} == {"ok"}


DECODINGS = {
    "greedy": Decoding(max_new_tokens=6),
    "sampled": Decoding(max_new_tokens=6, temperature=2.0, top_p=0.9),
    "stop": Decoding(max_new_tokens=6, stop=("a", "e")),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_the_transformers_engine_gives_the_cpus_answers(families, name, dtype):
    family = families[name]
    model = dataclasses.replace(family.model, generate_dtype=dtype)
    encode = family.encode("cpu", "full", "trim")
    encoded = encode(decoded_unit(family.model, 3))
    for decoding in DECODINGS.values():
        shared = {"engine": Transformers(), "decoding": decoding, "seed": 0, "threads": None}
        shared |= {"model": model, "geometry": family.geometry, "arms": encode._arms}
        expected = tables_of(Generate(device="cpu", **shared)(encoded))
        with pretended_cuda():
            assert tables_of(Generate(device="cuda", **shared)(encoded)) == expected
        assert {line["status"] for line in expected["requests"]} == {"ok"}
