"""Test random weights of any size, written shard by shard and loaded by transformers."""

import pytest
import torch
from transformers import CLIPModel, LlavaForConditionalGeneration

from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.folders import resolve
from pipeline.models.demo import sized_weights as geometry

SMALL = geometry.RandomLlava(
    width=64,
    intermediate=96,
    layers=2,
    heads=4,
    kv_heads=2,
    vocabulary=2000,
    vision_width=32,
    vision_layers=3,
    vision_heads=2,
    text_width=24,
    text_layers=2,
    text_heads=2,
)


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(geometry.SIZES, "small", SMALL)
    monkeypatch.setattr(geometry, "_SHARD_BYTES", 50_000)  # small enough for several shards
    return resolve("demo:random_small/llava"), resolve("demo:random_small/clip")


def test_transformers_finds_every_weight(small):
    llava, clip = small
    assert len(list(llava.glob("*.safetensors"))) > 2
    for kind, folder in ((LlavaForConditionalGeneration, llava), (CLIPModel, clip)):
        model, report = kind.from_pretrained(folder, output_loading_info=True)
        assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert all(weight.dtype == torch.bfloat16 for weight in model.parameters())
    assert check_fit(llava, clip).vision_width == SMALL.vision_width


def test_llava_and_clip_have_the_same_tower(small):
    llava, clip = small
    ours = LlavaForConditionalGeneration.from_pretrained(llava).model.vision_tower.state_dict()
    theirs = CLIPModel.from_pretrained(clip).vision_model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert float(ours["encoder.layers.0.mlp.fc1.weight"].float().std()) == pytest.approx(0.02, rel=0.1)
