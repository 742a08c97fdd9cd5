"""Test which text CLIP reads, and how a text too long for it is read."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity, normalize

from pipeline.models.clip import ClipEncoder
from pipeline.models.preprocess import Preprocessor
from pipeline.models.towers import _mean_direction
from pipeline.stages.clip_text import TEXTS, ClipText
from pipeline.support.errors import ConfigError
from tests.support.runs import TEMPLATE
from trim import CDPruner, VisualTokens

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
    for text in TEXTS:
        assert ClipText(text=text).counted() == {"text": text, "long": "cut"}, "as release 0.1.0 counted"


def test_windows_have_a_mark_because_release_0_1_0_averaged_them_otherwise():
    assert ClipText(long="windows").counted().keys() == {"text", "long", "windows_mean"}


@settings(max_examples=60, derandomize=True)
@given(seed=st.integers(0, 1 << 32), pieces=st.integers(1, 6), spread=st.floats(0, 4))
def test_a_cosine_with_windows_is_in_proportion_to_the_mean_of_the_pieces_cosines(seed, pieces, spread):
    """Pieces of any lengths count alike; short and long texts have embeddings of one scale."""
    g = torch.Generator().manual_seed(seed)
    length_B1 = torch.exp(spread * torch.randn(pieces, 1, generator=g))
    pieces_BP = normalize(torch.randn(pieces, 16, generator=g), dim=-1) * length_B1
    metric_NP = torch.randn(50, 16, generator=g)
    averaged_P = _mean_direction(pieces_BP)
    published_N = torch.stack([cosine_similarity(metric_NP, piece, dim=-1) for piece in pieces_BP]).mean(0)
    ours_N = normalize(metric_NP, dim=-1) @ averaged_P / length_B1.mean()
    torch.testing.assert_close(ours_N, published_N, rtol=1e-4, atol=1e-5)
    if pieces == 1:
        assert averaged_P.equal(pieces_BP[0])
    torch.testing.assert_close(_mean_direction(averaged_P.expand(3, -1)), averaged_P, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def encoder(random_checkpoint):
    normalization = Preprocessor(random_checkpoint / "llava").normalization
    return ClipEncoder(*[random_checkpoint / "clip"] * 2, feature_layer=3, normalization=normalization)


@pytest.mark.parametrize("case", ["cdpruner_0", "cdpruner_3"])
def test_windows_are_averaged_as_the_published_cdpruner_does(case):
    with np.load(Path(__file__).parents[2] / "golden" / f"{case}.npz") as stored:
        fields = {name: torch.from_numpy(stored[name]) for name in stored.files}
    embeddings = fields["embeddings"][None]
    x = VisualTokens(embeddings, metric=fields["metric"][None], embeddings=embeddings)
    x = dataclasses.replace(x, text=_mean_direction(fields["text"])[None])
    assert CDPruner(int(fields["num_kept"]))(x)[0].kept.tolist() == fields["kept"].tolist()


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
    lengths = apart.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(split[1], (apart / lengths).mean(0) * lengths.mean(), rtol=1e-3, atol=1e-4)
    cut = encoder.encode_texts([long])[0]
    torch.testing.assert_close(cut, apart[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(cut, split[1], atol=1e-3)
