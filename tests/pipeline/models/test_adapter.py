"""Test LoRA adapters of a language model: found, refused, and added to its weights."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.engines.vllm import Vllm
from pipeline.models.checkpoints.adapter import read_adapter
from pipeline.models.checkpoints.language_only import language_only
from pipeline.support.errors import ConfigError
from tests.support.adapters import LAYER, make_adapter


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("prefix", ["model.language_model", "language_model.model", "model"])
def test_an_adapter_is_added_to_the_weights(random_checkpoint, tmp_path, prefix):
    """Whatever the layout of the LLaVA that it was trained on: its names follow from that."""
    llava = random_checkpoint / "llava"
    adapter = read_adapter(make_adapter(llava, tmp_path / "adapter", prefix=prefix))
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    product = next(tensors[name] for name in tensors if LAYER in name and "lora_B" in name) @ next(
        tensors[name] for name in tensors if LAYER in name and "lora_A" in name
    )
    plain, merged = (load_all(folder) for folder in (language_only(llava), language_only(llava, adapter)))
    assert plain.keys() == merged.keys()
    changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
    assert changed == set(adapter.layers)
    name = f"model.{LAYER}.weight"
    torch.testing.assert_close(merged[name], plain[name] + 2.0 * product.to(plain[name].dtype))
    assert language_only(llava) != language_only(llava, adapter)


def load_all(folder):
    return {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"peft_type": "IA3"}, "describes no LoRA adapter"),
        ({"r": "8"}, "cannot be read"),
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save="),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern="),
    ],
)
def test_what_is_more_than_a_sum_is_refused(random_checkpoint, tmp_path, config, error):
    folder = make_adapter(random_checkpoint / "llava", tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_bytes()) | config))
    with pytest.raises(ConfigError, match=error) as told:
        read_adapter(folder)
    assert str(told.value).startswith("engine.lora: ") and "\n" not in str(told.value)


def test_an_adapter_of_the_hub_needs_its_commit():
    """An upload during a run would change the adapter of the nodes that start later."""
    for name in ("owner/name", "owner/name@main"):
        with pytest.raises(ConfigError, match=rf"engine\.lora={name}: a hub id needs its commit"):
            Vllm(lora=name).adapter()


def test_layers_outside_the_language_model_and_other_shapes_are_refused(random_checkpoint, tmp_path):
    llava = random_checkpoint / "llava"
    with pytest.raises(ConfigError, match=r"holds no adapter_config\.json"):
        read_adapter(tmp_path)
    folder = make_adapter(llava, tmp_path / "adapter")
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    tower = "base_model.model.model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
    save_file(tensors | {f"{tower}.lora_A.weight": torch.zeros(4, 8)}, file)
    with pytest.raises(ConfigError, match="is of no linear layer of the language model"):
        read_adapter(folder)
    name = next(name for name in tensors if "lora_A" in name)
    save_file(tensors | {name: torch.zeros(4, 5)}, file)
    with pytest.raises(ConfigError, match="the language model has no"):
        language_only(llava, read_adapter(folder))
