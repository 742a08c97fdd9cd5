"""The shipped demo checkpoint loads in transformers, gives the same answers there, and right ones."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from transformers import AutoProcessor, AutoTokenizer, CLIPModel, LlavaForConditionalGeneration

from jobs.common.arguments import CONF
from pipeline.benchmark import demo
from pipeline.demo.scenes import make_sample, write_shards
from pipeline.engines.transformers import Transformers
from pipeline.models.config import Model
from pipeline.models.demo import names
from pipeline.run.in_process import run_in_process
from pipeline.sources.webdataset import WebDataset
from pipeline.storage.uris import Storage
from tests.support.runs import lasting, make_config, rows

CHECKPOINT = Path(names.__file__).with_name("checkpoint")
PICTURES = 3  # answers about these are compared one by one
MEASURED = 24  # pictures of the test split for the accuracies


@pytest.fixture(scope="module")
def model():
    tree = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "demo.yaml"))
    del tree["_target_"]
    return Model(**tree)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes")
    writing = {"samples": PICTURES, "samples_per_shard": PICTURES, "split": "test", "seed": 0}
    list(write_shards(str(folder), **writing, storage=Storage()))
    return WebDataset(path=str(folder))


def test_it_is_small_and_in_the_librarys_formats():
    files = [file for file in CHECKPOINT.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 16e6
    paths = {str(file.relative_to(CHECKPOINT)) for file in files}
    assert {"README.md", "report.json", "clip/model.safetensors", "llava/model.safetensors"} <= paths
    LlavaForConditionalGeneration.from_pretrained(CHECKPOINT / "llava")
    CLIPModel.from_pretrained(CHECKPOINT / "clip")
    AutoTokenizer.from_pretrained(CHECKPOINT / "clip")
    AutoProcessor.from_pretrained(CHECKPOINT / "clip")


def test_the_card_has_the_measured_figures_and_the_configuration_the_chosen_sign(model):
    report = json.loads((CHECKPOINT / "report.json").read_text())
    assert model.trim_sign == report["trim_sign"]
    card = (CHECKPOINT / "README.md").read_text()
    arms = report["figures"]["test"]["arms"]
    for name in ("full", "trim", "random", "trim_other_sign"):
        assert f"| {name} | {arms[name]['kept']:.1f} | {100 * arms[name]['accuracy']:.1f} |" in card
    chosen, other = (report["figures"]["val"]["arms"][arm]["accuracy"] for arm in ("trim", "trim_other_sign"))
    assert chosen >= other


@pytest.fixture(scope="module")
def answered(tmp_path_factory, model, scenes):
    """The rows of the pipeline with all tokens, in batches of 64 and of 1."""
    rows_by_batch = {}
    for max_batch in (64, 1):
        folder = tmp_path_factory.mktemp("answered")
        config = make_config(CHECKPOINT, scenes, folder, max_new_tokens=48)
        config = dataclasses.replace(config, model=model, engine=Transformers(max_batch=max_batch))
        run_in_process(config)
        rows_by_batch[max_batch] = rows(folder)
    return rows_by_batch


@pytest.mark.demo
def test_any_batch_gives_the_same_answers(answered):
    assert lasting(answered[64]) == lasting(answered[1])


@pytest.mark.demo
@pytest.mark.slow
def test_plain_transformers_gives_the_same_answers(answered, model):
    plain = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT / "llava", dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(CHECKPOINT / "llava")
    images = {}
    for index in range(PICTURES):
        sample = make_sample("test", 0, index)
        images[sample.key] = sample.jpeg()
    compared = 0
    for row in answered[64]:
        image = _opened(images[row["sample_key"]])
        prompt = model.template.replace("{question}", row["question"])
        inputs = processor(text=prompt, images=image, return_tensors="pt")
        with torch.inference_mode():
            ids = plain.generate(**inputs, max_new_tokens=48, do_sample=False)[0, inputs.input_ids.shape[1] :]
        assert processor.decode(ids, skip_special_tokens=True).strip() == row["prediction"], row["question"]
        compared += 1
    assert compared == len(answered[64]) > 6 * PICTURES


def _opened(data: bytes) -> Image.Image:
    from io import BytesIO

    return Image.open(BytesIO(data)).convert("RGB")


@pytest.mark.demo
@pytest.mark.slow
def test_answers_are_right_and_trim_keeps_relevant_patches(model):
    """The limits are looser than the card's figures, since only 24 pictures are measured, not 400."""
    arms = {name: arm for name, arm in demo.arms_of(model).items() if name in ("full", "trim", "random")}
    figures = demo.measure_arms(
        model,
        Transformers(),
        arms,
        split="test",
        seed=0,
        pictures=MEASURED,
        progress=lambda done: None,
    )
    full, trim, chance = (figures["arms"][name] for name in ("full", "trim", "random"))
    assert full["accuracy"] >= 0.88
    assert min(full["kinds"].values()) >= 0.70
    assert full["caption_f1"] >= 0.82
    assert trim["kept"] <= 0.30 * 576
    assert trim["accuracy"] >= 0.96 * full["accuracy"]
    assert figures["differences"]["random"]["value"] > 0
    assert trim["caption_f1"] > chance["caption_f1"] + 0.1
