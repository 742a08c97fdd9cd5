"""Test that a LLaVA and a CLIP checkpoint are checked, named and digested."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.models.checkpoints.digest import weights_digest
from pipeline.models.checkpoints.fit import Geometry, check_fit
from pipeline.models.checkpoints.folders import resolve
from pipeline.support.errors import ConfigError


@pytest.fixture
def pair(random_checkpoint, tmp_path):
    shutil.copytree(random_checkpoint, tmp_path / "pair")
    return tmp_path / "pair/llava", tmp_path / "pair/clip"


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (config[part] if part else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder, change):
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_geometry(random_checkpoint):
    assert check_fit(random_checkpoint / "llava", random_checkpoint / "clip") == Geometry(
        layers=3,
        kv_heads=4,
        head_dim=24,
        image_size=336,
        patch_size=14,
        num_patches=576,
        vision_width=64,
        language_width=96,
        feature_layer=3,
        max_positions=4096,
    )


def test_no_torch_is_imported_to_check(random_checkpoint):
    code = (
        "import sys; from pathlib import Path; "
        "from pipeline.models.checkpoints.digest import weights_digest; "
        "from pipeline.models.checkpoints.fit import check_fit; "
        f"root = Path({str(random_checkpoint)!r}); check_fit(root / 'llava', root / 'clip'); "
        "weights_digest(root / 'clip'); assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("layer", "resolved"), [(-1, 4), (-2, 3), (1, 1), (4, 4)])
def test_feature_layers_are_counted_from_either_end(pair, layer, resolved):
    edit_config(pair[0], vision_feature_layer=layer)
    assert check_fit(*pair).feature_layer == resolved


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (0, {"model_type": "qwen2_vl"}, "no llava checkpoint"),
        (1, {"model_type": "siglip"}, "no clip checkpoint"),
        (1, {"vision_config__patch_size": 16}, "patch_size is 14 in .* and 16"),
        (1, {"vision_config__num_hidden_layers": 5}, "num_hidden_layers"),
        (0, {"vision_config__num_attention_heads": 2}, "num_attention_heads"),
        (0, {"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy 'full'"),
        (0, {"vision_feature_layer": [-2, -5]}, "only one layer"),
        (0, {"vision_feature_layer": -6}, "not one of 4 layers"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(pair, part, changes, message):
    edit_config(pair[part], **changes)
    with pytest.raises(ConfigError, match=message) as raised:
        check_fit(*pair)
    assert "\n" not in str(raised.value)


def forget_image_token(folder):
    """Remove the image token from the tokenizer's files, as in a text-only model."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((folder / name).read_text().replace("<image>", "<picture>"))


def test_a_tokenizer_without_an_image_token_is_refused(pair):
    forget_image_token(pair[0])
    with pytest.raises(ConfigError, match="the tokenizer has no image token"):
        check_fit(*pair)


def test_an_image_token_with_another_number_is_refused(pair):
    edit_config(pair[0], image_token_index=7)
    with pytest.raises(ConfigError, match=r"<image> is token \d+ of the tokenizer, but 7 of the model"):
        check_fit(*pair)


def test_an_image_token_may_stand_beside_a_sentencepiece_tokenizer(pair):
    """Checkpoints without a tokenizer.json keep it in added_tokens.json."""
    (pair[0] / "tokenizer.json").unlink()
    (pair[0] / "tokenizer.model").write_bytes(b"pieces")
    number = json.loads((pair[0] / "config.json").read_text())["image_token_index"]
    (pair[0] / "added_tokens.json").write_text(json.dumps({"<image>": number}))
    assert check_fit(*pair).num_patches == 576


def test_text_models_and_the_original_layout_are_named(pair):
    edit_config(pair[0], mm_vision_tower="openai/clip")
    config = json.loads((pair[0] / "config.json").read_text())
    flat = {key: value for key, value in config.items() if not key.startswith("vision")}
    (pair[0] / "config.json").write_text(json.dumps(flat))
    with pytest.raises(ConfigError, match="original LLaVA layout"):
        check_fit(*pair)
    (pair[0] / "config.json").write_text(json.dumps(flat["text_config"]))
    with pytest.raises(ConfigError, match=r"no llava checkpoint: its model_type is 'llama'.*text alone"):
        check_fit(*pair)


@pytest.mark.parametrize("suffix", ["embeddings.class_embedding", "encoder.layers.2.mlp.fc1.weight"])
def test_another_vision_tower_is_refused(pair, suffix):
    def change(weights):
        name = next(name for name in weights if "vision" in name and name.endswith(suffix))
        return weights | {name: torch.randn(weights[name].shape, generator=torch.Generator().manual_seed(0))}

    edit_weights(pair[0], change)
    with pytest.raises(ConfigError, match=f"vision tower .* {suffix} differs"):
        check_fit(*pair)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_same_tower_in_half_precision_is_accepted(pair, dtype):
    edit_weights(pair[0], lambda weights: {name: weight.to(dtype) for name, weight in weights.items()})
    assert check_fit(*pair).feature_layer == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [("vision_tower.", "vision_tower.vision_model."), ("vision_tower.", "model.vision_tower.")],
)
def test_every_layout_of_the_tower_is_known(pair, old, new):
    edit_weights(pair[0], lambda weights: {name.replace(old, new): w for name, w in weights.items()})
    assert check_fit(*pair).feature_layer == 3


@pytest.mark.parametrize(
    ("part", "removed", "message"),
    [
        (0, "multi_modal_projector", "no projector weights"),
        (0, "vision_tower", "no vision tower weights"),
        (1, "vision_model", "no vision tower weights"),
    ],
)
def test_missing_weights_are_refused(pair, part, removed, message):
    edit_weights(pair[part], lambda weights: {name: w for name, w in weights.items() if removed not in name})
    with pytest.raises(ConfigError, match=message):
        check_fit(*pair)


@pytest.mark.parametrize(
    ("part", "file", "message"),
    [
        (0, "config.json", "no config.json"),
        (1, "config.json", "no config.json"),
        (0, "tokenizer.json", "lacks a tokenizer"),
        (1, "tokenizer.json", "lacks a tokenizer"),
        (0, "model.safetensors", "no .*safetensors"),
    ],
)
def test_missing_files_are_refused(pair, part, file, message):
    (pair[part] / file).unlink()
    with pytest.raises(ConfigError, match=message):
        check_fit(*pair)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100])
def test_broken_files_are_refused(pair, content):
    (pair[0] / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="not a safetensors file"):
        check_fit(*pair)
    (pair[0] / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match="not JSON"):
        check_fit(*pair)


def test_a_missing_shard_is_named(pair):
    index = {"weight_map": {"a": "model-1-of-2.safetensors", "b": "model-2-of-2.safetensors"}}
    (pair[0] / "model.safetensors").rename(pair[0] / "model-1-of-2.safetensors")
    (pair[0] / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"lacks model-2-of-2\.safetensors"):
        weights_digest(pair[0])


def test_the_digest_depends_only_on_the_files_that_are_loaded(random_checkpoint, pair):
    digest = weights_digest(pair[0])
    assert digest == weights_digest(random_checkpoint / "llava")
    assert digest != weights_digest(pair[1])
    (pair[0] / "README.md").write_text("hello")
    assert digest == weights_digest(pair[0])
    (pair[0] / "generation_config.json").write_text("{}")
    assert digest != weights_digest(pair[0])


def test_the_digest_changes_with_the_weights(pair):
    digest = weights_digest(pair[0])
    edit_weights(pair[0], lambda weights: {name: weight + 0.5 for name, weight in weights.items()})
    assert digest != weights_digest(pair[0])


def test_a_folder_resolves_to_itself(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path


def test_demo_checkpoints_are_made_once(tmp_path, monkeypatch, random_checkpoint):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(resolve, ["demo:random/llava", "demo:random/clip"] * 2))
    assert check_fit(folders[0], folders[1]).num_patches == 576
    kept = {folder for folder in (tmp_path / "trimline").iterdir() if folder.name != ".records"}
    assert {folder.parent for folder in folders} == kept, "no other folder remains"
    for part, folder in (("llava", folders[0]), ("clip", folders[1])):  # generation is deterministic
        assert weights_digest(folder) == weights_digest(random_checkpoint / part)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("demo:nothing", "no demo checkpoint"),
        ("./nowhere", "neither a folder nor a hub id"),
        ("/no/such/folder", "neither a folder nor a hub id"),
        ("nobody/no-such-model", "the hub does not give it"),
    ],
)
def test_a_missing_checkpoint_is_refused_in_one_line(monkeypatch, path, message):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=message) as raised:
        resolve(path)
    assert "\n" not in str(raised.value)
