"""Test a LLaVA on SigLIP and Qwen2 against transformers, from its files to its rows."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    CLIPConfig,
    LlavaForConditionalGeneration,
    SiglipImageProcessorPil,
    SiglipModel,
)

from pipeline.benchmark.end_to_end import Bench, Job
from pipeline.engines.base import Request
from pipeline.engines.transformers import Transformers
from pipeline.models.checkpoints.fit import Geometry, check_fit
from pipeline.models.checkpoints.kinds import SIGLIP
from pipeline.models.clip import IMAGE_FIELDS
from pipeline.models.config import Model
from pipeline.models.encoder import load_encoder
from pipeline.models.footprint import of_encode, of_generate
from pipeline.models.llava import LanguageModel
from pipeline.models.preprocess import Preprocessor
from pipeline.run.in_process import run_in_process
from pipeline.run.prepare import prepare
from pipeline.sources.images import Images
from pipeline.stages.arms import Arm
from pipeline.support.errors import ConfigError
from tests.support.runs import make_config, rows
from tests.support.siglip_checkpoint import GRID, LAYERS, POSITIONS, SIDE, TEMPLATE, make_siglip, relaid
from trim import CDPruner, DivPrune, Full, PruMerge, Random, Trim, TrimCover, VisionZip

PATCHES = GRID**2
QUESTIONS = ["What is shown in the picture?", "How many people are there?", "Describe it."]
TEXTS = [*QUESTIONS, "", "many words " * 30, "Ünïcödé 猫, 🐈!"]
NEW_TOKENS = 8
NEEDS = frozenset({"metric", "text"})


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    return make_siglip(tmp_path_factory.mktemp("siglip"))


@pytest.fixture
def pair(siglip, tmp_path):
    shutil.copytree(siglip, tmp_path / "pair")
    return tmp_path / "pair/llava", tmp_path / "pair/clip"


@pytest.fixture(scope="module")
def model(siglip):
    return model_of(siglip)


def model_of(folder, **options):
    return Model(
        name="tiny", path=str(folder / "llava"), clip=str(folder / "clip"), template=TEMPLATE, **options
    )


@pytest.fixture(scope="module")
def encoder(siglip, model):
    return load_encoder(model, check_fit(siglip / "llava", siglip / "clip"), needs=NEEDS)


@pytest.fixture(scope="module")
def pixels(siglip, photographs):
    preprocess = Preprocessor(siglip / "llava")
    return torch.from_numpy(np.stack([preprocess(image) for image in photographs[:4]]))


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    for key, value in changes.items():
        part, _, name = key.rpartition("__")
        (config[part] if part else config)[name] = value
    (folder / "config.json").write_text(json.dumps(config))


def test_geometry(siglip):
    assert check_fit(siglip / "llava", siglip / "clip") == Geometry(
        layers=2,
        kv_heads=2,
        head_dim=16,
        image_size=SIDE,
        patch_size=14,
        num_patches=PATCHES,
        vision_width=48,
        language_width=64,
        feature_layer=LAYERS - 1,
        max_positions=32768,
        kind="siglip",
    )


@torch.inference_mode()
def test_image_fields_are_those_of_the_library(siglip, encoder, pixels):
    """Compared with LLaVA's own tower, and with SigLIP's head on one patch at a time."""
    llava = LlavaForConditionalGeneration.from_pretrained(siglip / "llava").eval()
    features = []
    llava.model.multi_modal_projector.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    llava.model.get_image_features(encoder.normalize(pixels))
    fields = encoder.encode_images(pixels, IMAGE_FIELDS)
    assert fields.keys() == {"patches", "metric"} == IMAGE_FIELDS - SIGLIP.lacks
    torch.testing.assert_close(fields["patches"], features[0], rtol=0, atol=0)
    tower = SiglipModel.from_pretrained(siglip / "clip").eval().vision_model
    alone = tower.head(tower.post_layernorm(features[0]).reshape(-1, 1, 48))
    torch.testing.assert_close(fields["metric"], alone.reshape(4, PATCHES, 48), rtol=1e-4, atol=1e-5)
    assert encoder.encode_images(pixels, frozenset()).keys() == {"patches"}


@torch.inference_mode()
def test_texts_equal_those_of_the_library(siglip, encoder):
    """Texts are padded to all positions without a mask, and keep their end token when cut."""
    tokenizer = AutoTokenizer.from_pretrained(siglip / "clip")
    reference = SiglipModel.from_pretrained(siglip / "clip").eval()
    options = {"padding": "max_length", "truncation": True, "max_length": POSITIONS, "return_tensors": "pt"}
    expected = reference.get_text_features(tokenizer(TEXTS, **options)["input_ids"]).pooler_output
    torch.testing.assert_close(encoder.encode_texts(TEXTS), expected, rtol=1e-4, atol=1e-5)


def test_long_texts_are_averaged_over_windows(encoder):
    ids = encoder._tokenizer(TEXTS[4], add_special_tokens=False)["input_ids"]
    parts = [ids[at : at + POSITIONS - 1] for at in range(0, len(ids), POSITIONS - 1)]
    assert len(parts) > 2
    embeds = encoder._embed(torch.from_numpy(encoder._padded([[*part, 1] for part in parts])))
    lengths = embeds.norm(dim=-1, keepdim=True)
    expected = (embeds / lengths).mean(0) * lengths.mean()
    torch.testing.assert_close(encoder.encode_texts([TEXTS[4]], windows=True)[0], expected)


def test_half_precision_towers_give_a_float32_joint_space(siglip, encoder, pixels):
    half = load_encoder(
        model_of(siglip, encode_dtype="bfloat16"), check_fit(siglip / "llava", siglip / "clip"), needs=NEEDS
    )
    fields, exact = half.encode_images(pixels, NEEDS), encoder.encode_images(pixels, NEEDS)
    assert (fields["patches"].dtype, fields["metric"].dtype) == (torch.bfloat16, torch.float32)
    assert torch.cosine_similarity(fields["metric"], exact["metric"], dim=-1).median() > 0.99
    texts = half.encode_texts(TEXTS)
    assert texts.dtype == torch.float32
    assert torch.cosine_similarity(texts, encoder.encode_texts(TEXTS)).min() > 0.99


@pytest.mark.parametrize("kind", ["published", "saved by transformers"])
def test_pictures_are_stretched_as_the_library_does_bit_for_bit(siglip, tmp_path, photographs, kind):
    folder = siglip / "clip"
    if kind == "published":
        numbers = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 255, "resample": 3}
        settings = {"image_processor_type": "SiglipImageProcessor", "do_convert_rgb": None, **numbers}
        settings |= {"size": {"height": SIDE, "width": SIDE}}
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        folder = tmp_path
    ours, library = Preprocessor(folder), SiglipImageProcessorPil.from_pretrained(siglip / "clip")
    assert ours._library is None
    for image in [*photographs[::4], Image.new("RGB", (1, 900), "red"), Image.new("RGB", (900, 20), "blue")]:
        stretched = library(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        assert np.array_equal(ours(image), np.asarray(stretched).transpose(1, 2, 0)), image.size
    numbers = ours.normalization
    values = (ours(photographs[0]) * np.float32(numbers.rescale_factor) - numbers.mean) / numbers.std
    expected = library(photographs[0], return_tensors="np")["pixel_values"][0]
    np.testing.assert_allclose(values.transpose(2, 0, 1), expected, rtol=1e-5, atol=1e-6)


def untied(folder):
    """Store the output weights beside the equal embeddings, as some checkpoints do."""
    weights = load_file(folder / "model.safetensors")
    weights["language_model.lm_head.weight"] = weights["language_model.model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def published(folder):
    """Write config.json as llava-interleave-qwen does: only text_config mentions tied weights."""
    config = json.loads((folder / "config.json").read_text())
    del config["tie_word_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    relaid(folder, vision_tower="vision_tower.vision_model")


def of_transformers_5(folder):
    """Also claim a head in config.json, though the file has no weights for it."""
    config = json.loads((folder / "config.json").read_text())
    del config["vision_config"]["vision_use_head"]
    (folder / "config.json").write_text(json.dumps(config))
    relaid(
        folder,
        vision_tower="model.vision_tower",
        multi_modal_projector="model.multi_modal_projector",
        language_model__model="model.language_model",
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, photographs):
    """Write three pictures, each with a question."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, (image, question) in enumerate(zip(photographs[:9:3], QUESTIONS, strict=True)):
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(question)
    return folder


@pytest.fixture(scope="module")
def expected(siglip, pictures):
    """Answer the questions with plain transformers and all tokens."""
    folder = siglip / "llava"
    model, processor = (
        LlavaForConditionalGeneration.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder),
    )
    answers = []
    for number, question in enumerate(QUESTIONS):
        image = Image.open(pictures / f"{number}.png")
        text = TEMPLATE.replace("{question}", question)
        inputs = processor(text=text, images=image, return_tensors="pt")
        assert int((inputs.input_ids == model.config.image_token_id).sum()) == PATCHES
        output = model.eval().generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        tokens = output[0, inputs.input_ids.shape[1] :]
        answers.append(processor.decode(tokens, skip_special_tokens=True).strip())
    assert len(set(answers)) == 3, "answers must depend on the images"
    return answers


def config_of(folder, pictures, output, **reducers):
    arms = [Arm(name, reducer, {"name": name}, name) for name, reducer in reducers.items()]
    config = make_config(folder, Images(path=str(pictures)), output, max_new_tokens=NEW_TOKENS)
    return dataclasses.replace(config, model=model_of(folder), arms=tuple(arms))


@pytest.mark.parametrize("lay", [None, published, of_transformers_5, untied])
def test_with_all_tokens_answers_equal_those_of_the_library(pair, pictures, expected, tmp_path, lay):
    if lay is not None:
        lay(pair[0])
    run_in_process(config_of(pair[0].parent, pictures, tmp_path / "out", full=Full()))
    answered = rows(tmp_path / "out/full")
    assert [row["status"] for row in answered] == ["ok"] * 3
    assert [row["prediction"] for row in answered] == expected
    assert {row["visual_tokens_kept"] for row in answered} == {PATCHES}


def test_every_reducer_that_reads_no_cls_works(siglip, pictures, tmp_path):
    reducers = {
        "trim": Trim(),
        "trim_cover": TrimCover(),
        "divprune": DivPrune(num_kept=6),
        "cdpruner": CDPruner(num_kept=6),
        "random": Random(num_kept=6, seed=0),
    }
    run_in_process(config_of(siglip, pictures, tmp_path / "out", **reducers))
    for name in reducers:
        answered = rows(tmp_path / "out" / name)
        assert [row["status"] for row in answered] == ["ok"] * 3, name
        for row in answered:
            bits = np.unpackbits(np.frombuffer(row["kept_patches"], np.uint8))
            count = row["visual_tokens_kept"]
            assert 0 < count < row["visual_tokens_full"] == PATCHES, name
            assert not bits[PATCHES:].any()
            assert bits.sum() in ((count - 1, count) if name.startswith("trim") else (6,))


@pytest.mark.parametrize(
    ("reducer", "field"),
    [
        (PruMerge(), r"reducer PruMerge \(arm it\) reads last_cls_attention, last_keys,"),
        (VisionZip(), r"reducer VisionZip \(arm it\) reads cls, cls_attention, head_mean_keys,"),
    ],
    ids=["prumerge", "visionzip"],
)
def test_reducers_that_read_cls_are_refused_before_ray(siglip, pictures, tmp_path, reducer, field):
    with pytest.raises(ConfigError, match=f"{field} which .* siglip") as raised:
        prepare(config_of(siglip, pictures, tmp_path / "out", full=Full(), it=reducer))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (0, {"vision_feature_select_strategy": "default"}, "only 'full' with a vision tower of siglip"),
        (0, {"vision_config__model_type": "dinov2"}, "'dinov2' is none of clip, siglip"),
        (0, {"vision_config__num_hidden_layers": LAYERS + 1}, "num_hidden_layers is 4 in .* and 3"),
        (0, {"vision_config__image_size": 70}, "image_size"),
        (1, {"model_type": CLIPConfig.model_type}, "no siglip checkpoint: its model_type is 'clip'"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(pair, part, changes, message):
    edit_config(pair[part], **changes)
    with pytest.raises(ConfigError, match=message) as raised:
        check_fit(*pair)
    assert "\n" not in str(raised.value)


def test_a_siglip_without_its_tokenizer_is_refused(pair):
    (pair[1] / "spiece.model").unlink()
    with pytest.raises(ConfigError, match=r"lacks a tokenizer \(tokenizer\.json or spiece\.model\)"):
        check_fit(*pair)


@pytest.mark.parametrize("name", ["embeddings.patch_embedding.bias", "encoder.layers.1.mlp.fc1.weight"])
def test_a_fine_tuned_tower_is_accepted_and_another_one_refused(pair, name):
    weights = load_file(pair[0] / "model.safetensors")
    ours, theirs = weights[f"vision_tower.{name}"], load_file(pair[1] / "model.safetensors")
    assert not torch.equal(ours, theirs[f"vision_model.{name}"])
    weights[f"vision_tower.{name}"] = ours.roll(1)
    save_file(weights, pair[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"is not that of .*{name} differs"):
        check_fit(*pair)


def test_missing_weights_of_the_head_are_refused(pair):
    weights = load_file(pair[1] / "model.safetensors")
    del weights["vision_model.head.layernorm.bias"]
    save_file(weights, pair[1] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"pooling head are missing .*layernorm\.bias"):
        load_encoder(model_of(pair[0].parent), check_fit(*pair), needs=NEEDS)


def test_the_memory_estimate_equals_the_loaded_weights(siglip, encoder):
    parts = (encoder._vision_tower, encoder._head, encoder._text_tower, encoder._text_head)
    loaded = sum(weight.nbytes for part in parts for weight in part.parameters())
    assert of_encode(siglip / "llava", siglip / "clip", NEEDS).weights == loaded
    language_model = LanguageModel(siglip / "llava")
    parts = (language_model.model, language_model.projector)
    loaded = sum(weight.nbytes for part in parts for weight in part.parameters())
    assert of_generate(siglip / "llava", "float32").weights == loaded


def test_the_benchmarks_arms_answer_as_their_plain_loop(model):
    job = Job(requests=2, rounds=1, new_tokens=4, images_at_once=2, loop_batches=(1,))
    bench = Bench(model, Transformers(), job, NEEDS)
    pixels_BCSS = bench.encoder.normalize(bench.pictures(0))
    encode_s, _, answers = bench.loop.answer(bench.prompts, pixels_BCSS, 2, job.new_tokens)
    assert encode_s > 0
    patches = bench.encoder.encode_images(bench.pictures(0), frozenset())["patches"]
    requests = [Request(prompt, tokens) for prompt, tokens in zip(bench.prompts, patches, strict=True)]
    assert [list(answer.token_ids) for answer in bench.engine.generate(requests)] == answers
