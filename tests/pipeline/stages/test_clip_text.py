"""Test which text CLIP reads, and how a text too long for it is read."""

import dataclasses

import pytest
import torch

from pipeline.models.clip import ClipEncoder
from pipeline.models.preprocess import Preprocessor
from pipeline.stages.clip_text import ClipText
from pipeline.support.errors import ConfigError
from tests.support.runs import TEMPLATE

SUFFIX = "\nAnswer the question using a single word or phrase."
ASKED = f"What color is the dog's old <image> hat?{SUFFIX}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("question", f"What color is the dog's old   hat?{SUFFIX}"),
        ("bare", "What color is the dog's old   hat?"),
        ("words", "color dog's old hat"),
    ],
)
def test_the_text_of_a_question(text, expected):
    assert ClipText(text=text).of(ASKED, suffix=SUFFIX, template=TEMPLATE) == expected


def test_the_prompt_is_the_language_models_without_the_image_token():
    text = ClipText(text="prompt").of("Why?", suffix="", template=TEMPLATE)
    assert text == TEMPLATE.replace("<image>", " ").replace("{question}", "Why?")


def test_a_question_without_content_words_is_read_unshortened():
    assert ClipText(text="words").of("What is this?", suffix="", template=TEMPLATE) == "What is this?"
    assert ClipText(text="words").of("¿¡…!", suffix="", template=TEMPLATE) == "¿¡…!"


@pytest.mark.parametrize("options", [{"text": "image"}, {"long": "fold"}])
def test_unknown_choices_are_refused(options):
    with pytest.raises(ConfigError, match="is none of"):
        ClipText(**options)


def test_the_fingerprint_counts_both_choices():
    assert all(field.metadata["fingerprint"] for field in dataclasses.fields(ClipText))


@pytest.fixture(scope="module")
def encoder(random_checkpoint):
    normalization = Preprocessor(random_checkpoint / "llava").normalization
    return ClipEncoder(*[random_checkpoint / "clip"] * 2, feature_layer=3, normalization=normalization)


def test_long_texts_average_their_windows_and_short_texts_stay_the_same(encoder):
    fits, words = "what is shown?", [f"color of cup number {n}" for n in range(60)]
    long = " ".join(words)
    split = encoder.encode_texts([fits, long, fits], windows=True)
    torch.testing.assert_close(split[0], encoder.encode_texts([fits])[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(split[2], split[0], rtol=1e-4, atol=1e-5)
    ids = encoder._tokenizer(long, add_special_tokens=False)["input_ids"]
    pieces = [encoder._tokenizer.decode(ids[at : at + 75]) for at in range(0, len(ids), 75)]
    assert len(pieces) > 3
    apart = torch.cat([encoder.encode_texts([piece]) for piece in pieces])
    torch.testing.assert_close(split[1], apart.mean(0), rtol=1e-3, atol=1e-4)
    cut = encoder.encode_texts([long])[0]
    torch.testing.assert_close(cut, apart[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(cut, split[1], atol=1e-3)
