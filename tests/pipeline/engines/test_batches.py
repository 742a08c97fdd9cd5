"""Test how the transformers engine batches: by length and kind of answer, and again when memory runs out."""

import random
from contextlib import contextmanager

import pytest
import torch

from pipeline.engines.base import Request
from pipeline.engines.batches import pad_behind, plan_batches
from pipeline.engines.transformers import Transformers
from pipeline.models.config import Decoding
from pipeline.models.llava import LanguageModel
from pipeline.sources.task import kind_of_answer

CAPTION = "Describe the image in one sentence."
TEMPLATE = "USER: <image>\n{question} ASSISTANT:"
NEW_TOKENS = 8


@pytest.fixture(scope="module")
def language_model(random_checkpoint):
    return LanguageModel(random_checkpoint / "llava")


@pytest.fixture(scope="module")
def requests(language_model):
    """32 requests of 1 to 40 visual tokens; the captions' kind is not the questions'."""
    width = language_model.projector.linear_1.in_features
    noise = torch.Generator().manual_seed(0)
    texts = [CAPTION if index % 2 else f"what is {index}?" for index in range(32)]
    return [
        Request(
            TEMPLATE.format(question=text),
            torch.randn(1 + (7 * index) % 40, width, generator=noise),
            key=str(index),
            kind=kind_of_answer(text, [CAPTION]),
        )
        for index, text in enumerate(texts)
    ]


@contextmanager
def batches_of(language_model, most=None):
    """Record the batch size of each prefill, and let one of more than `most` rows find no memory."""
    sizes = []

    def look(_module, _arguments, options):
        embeds = options.get("inputs_embeds")  # none in later steps
        if embeds is not None and (rows := len(embeds)):
            sizes.append(rows)
            if most is not None and rows > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")

    inner = language_model.model.model
    hook = inner.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


def engine(language_model, decoding=None, **config):
    decoding = decoding or Decoding(max_new_tokens=NEW_TOKENS)
    return Transformers(prefix_cache=False, **config).of_model(language_model, decoding, seed=0)


def ids(answers):
    return [answer.token_ids for answer in answers]


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_a_batch_that_finds_no_memory_is_answered_as_halves(language_model, requests, temperature, caplog):
    """The answers are those of small batches, and the next call does not try the large one again."""
    decoding = Decoding(max_new_tokens=NEW_TOKENS, temperature=temperature)
    expected = engine(language_model, decoding, max_batch=4).generate(requests)
    halving = engine(language_model, decoding)
    with batches_of(language_model, most=4) as sizes:
        answers = halving.generate(requests)
        assert max(sizes) == 16 and sizes[-1] == 4
        sizes.clear()
        assert ids(halving.generate(requests)) == ids(expected)
        assert max(sizes) == 4
    assert ids(answers) == ids(expected)
    assert len(set(ids(answers))) > 16
    assert "engine.token_budget" in caplog.text


def test_one_request_without_memory_is_not_tried_for_ever(language_model, requests):
    with batches_of(language_model, most=0), pytest.raises(torch.OutOfMemoryError):
        engine(language_model).generate(requests[:3])


def test_captions_and_short_answers_are_in_different_batches(language_model, requests):
    """And no answer depends on it, greedy or sampled."""
    for temperature in (0.0, 5.0):
        decoding = Decoding(max_new_tokens=NEW_TOKENS, temperature=temperature)
        mixed = [Request(item.prompt, item.tokens_KD, item.key) for item in requests]
        with batches_of(language_model) as sizes:
            apart = engine(language_model, decoding).generate(requests)
            assert sizes == [16, 16]
            sizes.clear()
            assert ids(engine(language_model, decoding).generate(mixed)) == ids(apart)
            assert sizes == [32]
            sizes.clear()
            assert ids(engine(language_model, decoding, group_by_kind=False).generate(requests)) == ids(apart)
            assert sizes == [32], "as outputs of earlier releases were begun"


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        (CAPTION, "prompt 1"),
        ("What color is it?", "question"),
        ("What is the answer in words to this?\nLook well.", "question"),
        ("What is it?\nAnswer the question using a single word or phrase.", "short"),
        ("Which one?\nAnswer with the option's letter from the given choices directly.", "short"),
        ("Is there a dog? Please answer yes or no.", "short"),
    ],
)
def test_the_kind_of_an_answer(question, kind):
    assert kind_of_answer(question, ["Describe it.", CAPTION]) == kind


@pytest.mark.parametrize(
    ("lengths", "budget", "largest", "expected"),
    [
        ([], 10, 4, []),
        ([5, 1, 5, 2], 10, 4, [[0, 2], [3, 1]]),
        ([3, 50, 3], 6, 4, [[1], [0, 2]]),
        ([1] * 5, 100, 2, [[0, 1], [2, 3], [4]]),
    ],
)
def test_plan_batches(lengths, budget, largest, expected):
    assert plan_batches(lengths, budget, largest) == expected


def test_a_batch_plan_is_complete_and_within_its_bounds():
    numbers = random.Random(0)
    for _ in range(200):
        lengths = [numbers.randint(1, 700) for _ in range(numbers.randint(0, 40))]
        budget, largest = numbers.randint(1, 3000), numbers.randint(1, 10)
        batches = plan_batches(lengths, budget, largest)
        assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
        for batch in batches:
            assert 1 <= len(batch) <= largest
            assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget


def test_padding_stands_behind_the_head():
    short, long = torch.ones(1, 2), torch.full((3, 2), 2.0)
    inputs_BLH, mask_BL = pad_behind([short, long], 0)
    assert mask_BL.tolist() == [[0, 0, 1], [1, 1, 1]]
    assert inputs_BLH[:, :, 0].tolist() == [[0, 0, 1], [2, 2, 2]]
    head = torch.full((2, 2), 7.0)
    inputs_BLH, mask_BL = pad_behind([torch.cat([head, short]), torch.cat([head, long])], 2)
    assert mask_BL.tolist() == [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
    assert inputs_BLH[:, :, 0].tolist() == [[7, 7, 0, 0, 1], [7, 7, 2, 2, 2]]
