"""Test the language model exported from a LLaVA checkpoint: equal weights, exported once."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.models.checkpoints import language_only as module
from pipeline.models.checkpoints.language_only import language_only
from pipeline.models.llava import LanguageModel
from pipeline.models.prompts import Prompts, load_table
from pipeline.support.errors import ConfigError

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trimline"


def logits(model, embeds_LH):
    with torch.inference_mode():
        return model(inputs_embeds=embeds_LH[None]).logits


def folders_of(cache):
    return [folder for folder in cache.iterdir() if not folder.name.startswith(".")]


def test_the_export_answers_like_the_original(random_checkpoint, cache):
    original = LanguageModel(random_checkpoint / "llava")
    folder = language_only(random_checkpoint / "llava")
    assert folder.parent == cache
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert names == set(original.model.state_dict())
    config = json.loads((folder / "config.json").read_bytes())
    assert config["architectures"] == ["LlamaForCausalLM"]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    token_ids = original.tokenize("USER: <image>\nwhat is it? ASSISTANT:")
    embeds_LH = original.embed_ids(token_ids, torch.randn(9, 64))
    assert torch.equal(logits(model, embeds_LH), logits(original.model, embeds_LH))


def test_prompts_are_equal_with_and_without_the_model(random_checkpoint):
    folder = random_checkpoint / "llava"
    original = LanguageModel(folder)
    alone = Prompts(folder, load_table(folder), device="cpu", dtype=torch.float32)
    tokens_KD = torch.randn(9, 64)
    prompt = "USER: <image>\nwhat is it? ASSISTANT:"
    token_ids = alone.tokenize(prompt)
    assert token_ids == original.tokenize(prompt)
    assert torch.equal(alone.embed_ids(token_ids, tokens_KD), original.embed_ids(token_ids, tokens_KD))
    assert alone.eos_token_ids == original.eos_token_ids


def test_a_checkpoint_is_exported_once_and_again_after_a_change(random_checkpoint, tmp_path, cache):
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    first = language_only(tmp_path / "llava")
    times = {file.name: file.stat().st_mtime_ns for file in first.iterdir()}
    assert language_only(tmp_path / "llava") == first
    assert {file.name: file.stat().st_mtime_ns for file in first.iterdir()} == times
    os.utime(tmp_path / "llava" / "model.safetensors", (1, 1))
    second = language_only(tmp_path / "llava")
    assert second != first
    file = tmp_path / "llava" / "config.json"
    file.write_text(file.read_text() + "\n")
    assert language_only(tmp_path / "llava") not in (first, second)
    assert len(folders_of(cache)) == 3  # no unfinished export remains


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_dtype_is_kept(random_checkpoint, tmp_path, dtype):
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    file = tmp_path / "llava" / "model.safetensors"
    save_file({name: weight.to(dtype) for name, weight in load_file(file).items()}, file, {"format": "pt"})
    folder = language_only(tmp_path / "llava")
    types = {weight.dtype for shard in folder.glob("*.safetensors") for weight in load_file(shard).values()}
    assert types == {dtype}


def test_an_invalid_generation_config_does_not_matter(random_checkpoint, tmp_path):
    """Checkpoints made from Vicuna set a temperature without sampling, which transformers refuses to save."""
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    file = tmp_path / "llava" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 0.9, "top_p": 0.6}))
    assert (language_only(tmp_path / "llava") / "config.json").is_file()


def test_large_models_are_written_in_shards(random_checkpoint, monkeypatch):
    monkeypatch.setattr(module, "_SHARD", "100KB")
    folder = language_only(random_checkpoint / "llava")
    assert (folder / "model.safetensors.index.json").is_file()
    original = LanguageModel(random_checkpoint / "llava").model.state_dict()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(weight, original[name]) for name, weight in model.state_dict().items())


def test_two_processes_at_once_make_one_export(random_checkpoint, cache):
    code = (
        "import sys; from pathlib import Path; "
        "from pipeline.models.checkpoints.language_only import language_only; "
        "print(language_only(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(random_checkpoint / "llava")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0] == outputs[1]
    assert [str(folder) for folder in folders_of(cache)] == [outputs[0]]


def test_missing_weights_are_refused_and_leave_no_export(random_checkpoint, tmp_path, cache):
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    file = tmp_path / "llava" / "model.safetensors"
    weights = load_file(file)
    save_file({name: weights[name] for name in weights if "q_proj" not in name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match="language model are missing"):
        language_only(tmp_path / "llava")
    assert folders_of(cache) == []
    save_file({name: weights[name] for name in weights if "embed_tokens" not in name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match="0 tables of text embeddings"):
        load_table(tmp_path / "llava")


def test_of_callers_at_once_one_makes_it(random_checkpoint, monkeypatch):
    """They wait for the first, as the processes of a node with several GPUs do, and take its folder."""
    loaded = []
    load = module.load_part

    def counting(*arguments, **options):
        loaded.append(1)
        return load(*arguments, **options)

    monkeypatch.setattr(module, "load_part", counting)
    with ThreadPoolExecutor(4) as callers:
        folders = set(callers.map(language_only, [random_checkpoint / "llava"] * 4))
    assert len(folders) == len(loaded) == 1
