"""The language model taken out of a LLaVA checkpoint: the same weights, made once, by whoever is first."""

import json
import os
import shutil
import subprocess
import sys
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


def test_it_says_what_the_whole_says(random_checkpoint, cache):
    whole = LanguageModel(random_checkpoint / "llava")
    folder = language_only(random_checkpoint / "llava")
    assert folder.parent == cache
    names = {name for file in folder.glob("*.safetensors") for name in load_file(file)}
    assert names == set(whole.model.state_dict())
    config = json.loads((folder / "config.json").read_bytes())
    assert config["architectures"] == ["LlamaForCausalLM"]
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    token_ids = whole.tokenize("USER: <image>\nwhat is it? ASSISTANT:")
    embeds_LH = whole.embed_ids(token_ids, torch.randn(9, 64))
    assert torch.equal(logits(model, embeds_LH), logits(whole.model, embeds_LH))


def test_prompts_without_the_model_are_those_with_it(random_checkpoint):
    folder = random_checkpoint / "llava"
    whole = LanguageModel(folder)
    alone = Prompts(folder, load_table(folder), device="cpu", dtype=torch.float32)
    tokens_KD = torch.randn(9, 64)
    prompt = "USER: <image>\nwhat is it? ASSISTANT:"
    token_ids = alone.tokenize(prompt)
    assert token_ids == whole.tokenize(prompt)
    assert torch.equal(alone.embed_ids(token_ids, tokens_KD), whole.embed_ids(token_ids, tokens_KD))
    assert alone.eos_token_ids == whole.eos_token_ids


def test_it_is_made_once_and_again_for_another_checkpoint(random_checkpoint, tmp_path, cache):
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    first = language_only(tmp_path / "llava")
    made = {file.name: file.stat().st_mtime_ns for file in first.iterdir()}
    assert language_only(tmp_path / "llava") == first
    assert {file.name: file.stat().st_mtime_ns for file in first.iterdir()} == made
    os.utime(tmp_path / "llava" / "model.safetensors", (1, 1))
    second = language_only(tmp_path / "llava")
    assert second != first
    file = tmp_path / "llava" / "config.json"
    file.write_text(file.read_text() + "\n")
    assert language_only(tmp_path / "llava") not in (first, second)
    assert len(list(cache.iterdir())) == 3  # nothing unfinished lies about


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_stored_type_stays_whatever_the_configuration_says(random_checkpoint, tmp_path, dtype):
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    file = tmp_path / "llava" / "model.safetensors"
    save_file({name: weight.to(dtype) for name, weight in load_file(file).items()}, file, {"format": "pt"})
    folder = language_only(tmp_path / "llava")
    types = {weight.dtype for made in folder.glob("*.safetensors") for weight in load_file(made).values()}
    assert types == {dtype}


def test_a_decoding_that_cannot_be_saved_does_not_matter(random_checkpoint, tmp_path):
    """As in the checkpoints that are made of Vicuna: a temperature, but no sampling."""
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    file = tmp_path / "llava" / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"temperature": 0.9, "top_p": 0.6}))
    assert (language_only(tmp_path / "llava") / "config.json").is_file()


def test_large_ones_are_written_in_shards(random_checkpoint, monkeypatch):
    monkeypatch.setattr(module, "_SHARD", "100KB")
    folder = language_only(random_checkpoint / "llava")
    assert (folder / "model.safetensors.index.json").is_file()
    whole = LanguageModel(random_checkpoint / "llava").model.state_dict()
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(weight, whole[name]) for name, weight in model.state_dict().items())


def test_two_processes_at_once_make_one(random_checkpoint, cache):
    code = (
        "import sys; from pathlib import Path; "
        "from pipeline.models.checkpoints.language_only import language_only; "
        "print(language_only(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", code, str(random_checkpoint / "llava")]
    both = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=300)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1]
    assert [str(folder) for folder in cache.iterdir()] == [told[0]]


def test_missing_weights_are_told_and_leave_nothing(random_checkpoint, tmp_path, cache):
    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    file = tmp_path / "llava" / "model.safetensors"
    weights = load_file(file)
    save_file({name: weights[name] for name in weights if "q_proj" not in name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match="language model are missing"):
        language_only(tmp_path / "llava")
    assert list(cache.iterdir()) == []
    save_file({name: weights[name] for name in weights if "embed_tokens" not in name}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match="0 tables of text embeddings"):
        load_table(tmp_path / "llava")
