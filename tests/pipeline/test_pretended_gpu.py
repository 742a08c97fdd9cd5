"""Test encode and generate on the pretended CUDA device: the CPU's bits, and few waits for the device."""

import dataclasses
import io
import threading

import numpy as np
import pyarrow as pa
import pytest
import torch
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


@pytest.mark.parametrize("name", configured())
def test_encode_waits_a_few_times_a_batch_and_sends_each_in_one_copy(families, name):
    family = families["clip"]
    unit = decoded_unit(family.model, 8)  # with two questions each
    with pretended_cuda() as counts:
        encode = family.encode("cuda", name)
        counts.reset()
        encode(unit)
    batches = 8 / family.model.encode_batch_size
    assert counts.waits.total() <= 6 * batches, str(counts)
    assert counts.to_device.total() <= 2 * batches, str(counts)
    assert counts.bytes_to_device < 8 * 336 * 336 * 3 * 1.01


def test_a_batch_that_memory_has_no_room_for_is_encoded_as_halves(families):
    """The bits are those of the smaller batches; if one image has no room, the error goes up."""
    family = families["clip"]
    unit = decoded_unit(family.model, 6)
    expected = tables_of(family.encode("cpu", "trim", "full", encode_batch_size=2)(unit))
    with pretended_cuda(), pytest.MonkeyPatch.context() as patch:
        encode = family.encode("cuda", "trim", "full", encode_batch_size=4)
        tower = encode._encoder._vision_tower
        sizes, most = [], 2

        def no_room(module, args, kwargs):
            sizes.append(len(kwargs["pixel_values"]))
            if sizes[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

        tower.register_forward_pre_hook(no_room, with_kwargs=True)
        emptied = []
        patch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(torch.cuda.memory_allocated()))
        weights = torch.cuda.memory_allocated()
        assert tables_of(encode(unit)) == expected
        assert sizes == [4, 2, 2, 2] and len(emptied) == 1
        assert emptied[0] < weights + 4 * 336 * 336, "the batch that failed is not held"
        most = 0
        with pytest.raises(torch.OutOfMemoryError):
            encode(unit)
        assert sizes[4:] == [4, 2, 1]


def test_float32_is_not_rounded_to_tf32(families):
    """cuDNN's convolutions are, by default."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cudnn, "allow_tf32", True)
        with pretended_cuda():
            families["clip"].encode("cuda", "full", encode_dtype="bfloat16")
            assert torch.backends.cudnn.allow_tf32
            families["clip"].encode("cuda", "full", encode_dtype="float32")
        assert not torch.backends.cudnn.allow_tf32


def test_the_next_batch_is_prepared_while_the_gpu_works_on_this_one(families):
    family = families["clip"]
    unit = decoded_unit(family.model, 8)
    expected = tables_of(family.encode("cpu", "trim", encode_batch_size=2)(unit))
    prepared, encoded = threading.Semaphore(0), []
    with pretended_cuda(), pytest.MonkeyPatch.context() as patch:
        encode = family.encode("cuda", "trim", encode_batch_size=2)
        tokenize = encode._encoder.tokenize_texts

        def counted(texts, *, windows):
            prepared.release()
            return tokenize(texts, windows=windows)

        def once_the_next_is_prepared(module, args):
            due = 2 if not encoded else 1 if len(encoded) < 3 else 0
            assert all(prepared.acquire(timeout=60) for _ in range(due))
            encoded.append(len(encoded))

        patch.setattr(encode._encoder, "tokenize_texts", counted)
        encode._encoder._vision_tower.register_forward_pre_hook(once_the_next_is_prepared)
        assert tables_of(encode(unit)) == expected
    assert len(encoded) == 4
