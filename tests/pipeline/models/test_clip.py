"""Test the CLIP encoder against transformers."""

import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from pipeline.models.clip import IMAGE_FIELDS, ClipEncoder
from pipeline.models.preprocess import Preprocessor

TEXTS = [
    "What is shown in the picture?",
    "",
    "What color is the cup?  Answer the question using a single word or phrase.",
    "many words " * 60,
    "Ünïcödé 猫 🐈",
]


@pytest.fixture(scope="module")
def reference(random_checkpoint):
    return CLIPModel.from_pretrained(random_checkpoint / "clip").eval()


@pytest.fixture(scope="module")
def encoder(random_checkpoint):
    normalization = Preprocessor(random_checkpoint / "llava").normalization
    return ClipEncoder(*[random_checkpoint / "clip"] * 2, feature_layer=3, normalization=normalization)


@pytest.fixture(scope="module")
def pixels(random_checkpoint, photographs):
    preprocess = Preprocessor(random_checkpoint / "llava")
    return torch.stack([torch.from_numpy(preprocess(image)) for image in photographs[:4]])


@torch.inference_mode()
def test_image_fields_are_those_of_the_library(encoder, reference, pixels):
    fields = encoder.encode_images(pixels, frozenset({"metric", "cls"}))
    tower = reference.vision_model
    hidden = tower(encoder.normalize(pixels), output_hidden_states=True).hidden_states[-2]
    torch.testing.assert_close(fields["patches"], hidden[:, 1:], rtol=0, atol=0)
    torch.testing.assert_close(fields["cls"], hidden[:, 0], rtol=0, atol=0)
    metric = reference.visual_projection(tower.post_layernorm(hidden[:, 1:]))
    torch.testing.assert_close(fields["metric"], metric)


@pytest.mark.parametrize("feature_layer", [2, 3, 4])
@torch.inference_mode()
def test_attention_fields_are_those_of_whole_attention_maps(
    random_checkpoint, encoder, pixels, feature_layer
):
    """Compared with the library's full maps and projections, which the encoder never computes."""
    needs = IMAGE_FIELDS
    ours = ClipEncoder(
        *[random_checkpoint / "clip"] * 2,
        feature_layer=feature_layer,
        normalization=encoder.normalization,
        needs=needs,
    )
    fields = ours.encode_images(pixels, needs)
    eager = CLIPModel.from_pretrained(random_checkpoint / "clip", attn_implementation="eager").eval()
    tower = eager.vision_model
    projections = {}
    for name in ("q_proj", "k_proj"):
        for number, layer in enumerate(tower.encoder.layers):
            module = getattr(layer.self_attn, name)
            module.register_forward_hook(lambda m, i, out, key=(name, number): projections.update({key: out}))
    output = tower(encoder.normalize(pixels), output_attentions=True, output_hidden_states=True)
    feature_index, last_index = feature_layer - 1, len(tower.encoder.layers) - 1
    torch.testing.assert_close(fields["patches"], output.hidden_states[feature_layer][:, 1:])
    torch.testing.assert_close(fields["cls_attention"], output.attentions[feature_index].mean(1)[:, 0, 1:])
    keys = projections["k_proj", feature_index][:, 1:]
    torch.testing.assert_close(fields["head_mean_keys"], sum(keys.split(16, -1)) / 4)
    torch.testing.assert_close(fields["last_keys"], projections["k_proj", last_index][:, 1:])
    scores = (
        projections["q_proj", last_index][:, :1] @ projections["k_proj", last_index].transpose(1, 2) / 64**0.5
    )
    torch.testing.assert_close(fields["last_cls_attention"], scores.softmax(-1)[:, 0, 1:])


def test_only_needed_fields_are_returned(encoder, pixels):
    assert encoder.encode_images(pixels[:1], frozenset()).keys() == {"patches"}


def test_no_text_tower_without_text(random_checkpoint, encoder):
    normalization = encoder.normalization
    plain = ClipEncoder(
        *[random_checkpoint / "clip"] * 2, feature_layer=2, normalization=normalization, needs=frozenset()
    )
    assert not hasattr(plain, "_text_tower")
    assert len(plain._vision_tower.encoder.layers) == 2


@torch.inference_mode()
def test_texts_equal_the_librarys_text_embeds(random_checkpoint, encoder, reference):
    tokenizer = AutoTokenizer.from_pretrained(random_checkpoint / "clip")
    text_BP = encoder.encode_texts(TEXTS)
    assert text_BP.dtype == torch.float32
    for text, ours in zip(TEXTS, text_BP, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=77, return_tensors="pt")
        expected = reference.get_text_features(**tokens).pooler_output[0]
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_a_text_does_not_depend_on_its_batch(encoder, monkeypatch):
    alone = torch.cat([encoder.encode_texts([text]) for text in TEXTS])
    torch.testing.assert_close(encoder.encode_texts(TEXTS), alone, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr("pipeline.models.towers.TEXTS_AT_ONCE", 2)
    torch.testing.assert_close(encoder.encode_texts(TEXTS), alone, rtol=1e-4, atol=1e-5)


def test_half_precision_towers_give_a_float32_joint_space(random_checkpoint, encoder, pixels):
    half = ClipEncoder(
        *[random_checkpoint / "clip"] * 2,
        feature_layer=3,
        normalization=encoder.normalization,
        dtype=torch.bfloat16,
    )
    needs = frozenset({"metric"})
    fields, exact = half.encode_images(pixels, needs), encoder.encode_images(pixels, needs)
    assert (fields["patches"].dtype, fields["metric"].dtype) == (torch.bfloat16, torch.float32)
    assert torch.cosine_similarity(fields["metric"], exact["metric"], dim=-1).median() > 0.99
    assert half.encode_texts(TEXTS).dtype == torch.float32


@torch.inference_mode()
def test_trims_outlier_rule_selects_some_but_not_all_patches(encoder, photographs, random_checkpoint):
    preprocess = Preprocessor(random_checkpoint / "llava")
    text_P = encoder.encode_texts(["What is shown in the picture?"])[0]
    shares = []
    for image in photographs:
        metric = encoder.encode_images(torch.from_numpy(preprocess(image))[None], frozenset({"metric"}))[
            "metric"
        ]
        scores = (-(metric[0] @ text_P)).softmax(0)
        low, high = scores.quantile(torch.tensor([0.25, 0.75]))
        shares.append((scores > high + 1.5 * (high - low)).float().mean().item())
    assert min(shares) > 0.02
    assert max(shares) < 0.4
