"""Test the memory estimates of a run against the loaded models."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel

from pipeline.engines.transformers import Transformers
from pipeline.models.config import Decoding, Model
from pipeline.models.footprint import (
    GIB,
    PROCESS_BYTES,
    Footprint,
    of_encode,
    of_generate,
    of_run,
    require_room,
)
from pipeline.models.llava import LanguageModel
from pipeline.support.errors import ConfigError
from tests.support.original_checkpoint import make_huge

TEMPLATE = "<image>{question}"


def size_of(*modules: torch.nn.Module) -> int:
    return sum(weight.nbytes for module in modules for weight in module.parameters())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_estimate_equals_the_loaded_weights(random_checkpoint, dtype):
    loaded = LanguageModel(random_checkpoint / "llava", dtype=getattr(torch, dtype))
    assert of_generate(random_checkpoint / "llava", dtype).weights == size_of(loaded.model, loaded.projector)


def test_clip_is_loaded_in_float32_and_its_text_tower_only_if_read(random_checkpoint):
    llava, clip = random_checkpoint / "llava", random_checkpoint / "clip"
    model = CLIPModel.from_pretrained(clip)
    tower, projection = size_of(model.vision_model), size_of(model.visual_projection)
    vision = tower + projection
    text = size_of(model.text_model, model.text_projection)
    assert of_encode(llava, clip, frozenset({"metric"})).weights == vision
    assert of_encode(llava, clip, frozenset({"metric", "text"})).weights == vision + text
    projector = LanguageModel(llava).projector
    assert of_encode(llava, clip, frozenset({"embeddings"})).weights == tower + size_of(projector)
    assert of_encode(llava, None, frozenset({"embeddings"})) == of_encode(
        llava, clip, frozenset({"embeddings"})
    )


def test_a_run_counts_its_actors_and_its_cache(random_checkpoint):
    llava, clip = random_checkpoint / "llava", random_checkpoint / "clip"
    options = {"needs": frozenset(), "dtype": "float32", "tokens": 576 + 64}
    with_one = of_run(llava, clip, cache_gib=None, actors={"encode": 1, "generate": 1}, **options)
    weights = of_generate(llava, "float32").weights
    assert with_one["generate"].weights == weights + PROCESS_BYTES
    # tokens, layers, key and value, width, bytes
    assert with_one["generate"].cache == (576 + 64 + 256) * 3 * 2 * 96 * 4
    with_two = of_run(llava, clip, cache_gib=4, actors={"encode": 1, "generate": 2}, **options)
    assert with_two["generate"] == Footprint(2 * (weights + PROCESS_BYTES), 2 * 4 * GIB)
    assert with_two["encode"] == with_one["encode"]


def test_a_model_too_large_for_the_memory_is_refused_in_one_line():
    model = Model(name="x", path="some/where", clip="c", template=TEMPLATE)
    parts = {"encode": Footprint(GIB), "generate": Footprint(13 * GIB, GIB)}
    with pytest.raises(ConfigError) as raised:
        require_room(model, parts, 14 * GIB, "this machine")
    assert str(raised.value) == (
        "model.path=some/where: some 15.0 GiB of memory are needed "
        "(encode 1.0 GiB, generate 13.0 + 1.0 GiB), "
        "but this machine has 14.0 GiB left; model.check_memory=false tries all the same"
    )
    require_room(model, parts, 15 * GIB, "this machine")
    require_room(model, parts, None, "this machine")
    unchecked = Model(name="x", path="some/where", clip="c", template=TEMPLATE, check_memory=False)
    require_room(unchecked, parts, 0, "this machine")


def test_an_engine_refuses_before_it_loads(random_checkpoint, tmp_path):
    """The check runs on cluster nodes too, whose memory the driver does not know."""
    huge = make_huge(random_checkpoint, tmp_path / "huge")
    model = Model(name="x", path=str(huge / "llava"), clip=str(huge / "clip"), template=TEMPLATE)
    with pytest.raises(ConfigError, match=r"some 16384\.0 GiB of memory are needed .* this machine has"):
        Transformers().load(model, Decoding(), device="cpu", seed=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_every_stored_type_in_shards_is_loaded_in_every_type(random_checkpoint, tmp_path, dtype):
    """Loaded weights equal the stored, rounded weights in every target dtype."""
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    weights = load_file(tmp_path / "llava" / "model.safetensors")
    (tmp_path / "llava" / "model.safetensors").unlink()
    names, index = sorted(weights), {}
    for number in (0, 1, 2):
        file = f"model-{number + 1:05d}-of-00003.safetensors"
        part = {name: weights[name].to(dtype) for name in names[number::3]}
        save_file(part, tmp_path / "llava" / file, metadata={"format": "pt"})
        index |= dict.fromkeys(part, file)
    (tmp_path / "llava" / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": index})
    )
    for target in (torch.float32, torch.bfloat16, torch.float16):
        loaded = LanguageModel(tmp_path / "llava", dtype=target)
        for name, weight in loaded.model.named_parameters():
            stored = weights[f"language_model.{name}"].to(dtype)
            assert weight.dtype == target and torch.equal(weight, stored.to(target)), name
