"""Test that stop strings end answers as transformers does, and that the reason says so."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from pipeline.engines.answers import stop_test
from pipeline.engines.base import Request
from pipeline.engines.transformers import Transformers
from pipeline.models.config import Decoding
from pipeline.models.demo.random_weights import SENTENCES
from pipeline.models.demo.tokenizers import llama_tokenizer
from pipeline.models.llava import LanguageModel

NEW_TOKENS = 8
cases = settings(max_examples=60, derandomize=True)
TEXTS = ["a cat", "\n", "\n\n", " ###", "é漢", "</s>", " ", "USER: ", "  ", "catalogue", "Answer\n"]


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, special_tokens=["</s>"])
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


TOKENIZERS = {"sentencepiece": llama_tokenizer(SENTENCES, 1200), "byte_level": byte_level()}


@pytest.mark.parametrize("kind", TOKENIZERS)
@cases
@given(
    texts=st.lists(st.sampled_from(TEXTS), min_size=1, max_size=5),
    stop=st.lists(st.sampled_from([*TEXTS, "t", "\n#", "s> ", "a c", ": "]), min_size=1, max_size=3),
)
@example(texts=["a cat"], stop=[" "])
@example(texts=["a cat", "</s>", "a cat"], stop=["t</s>"])
def test_the_test_ends_an_answer_where_transformers_does(kind, texts, stop):
    tokenizer = TOKENIZERS[kind]
    ids = [token for text in texts for token in tokenizer(text, add_special_tokens=False)["input_ids"]]
    criterion, stopped = StopStringCriteria(tokenizer, stop), stop_test(tokenizer, stop)
    steps = [ids[: number + 1] for number in range(len(ids))]
    theirs = [step for step in steps if criterion(torch.tensor([step]), None).item()]
    ours = [step for step in steps if stopped(step)]
    assert ours[:1] == theirs[:1]


@pytest.fixture(scope="module")
def language_model(random_checkpoint):
    return LanguageModel(random_checkpoint / "llava")


def answer_all(language_model, *, max_batch=64, **decoding):
    prompts = [f"USER: <image>\n{word} ASSISTANT:" for word in ("What?", "Describe it in full.", "How many?")]
    requests = [
        Request(prompt, torch.zeros(2, language_model.projector.linear_1.in_features)) for prompt in prompts
    ]
    engine = Transformers(max_batch=max_batch).of_model(language_model, Decoding(**decoding), seed=0)
    return engine.generate(requests)


@pytest.mark.parametrize("max_batch", [1, 64])
@pytest.mark.parametrize("max_new_tokens", [1, NEW_TOKENS])
def test_a_blank_that_ends_an_answer_is_the_reason(language_model, max_batch, max_new_tokens):
    """The random model says words, each with a blank before it: the first token ends every answer."""
    answers = answer_all(language_model, max_batch=max_batch, max_new_tokens=max_new_tokens, stop=[" "])
    assert [answer.finish_reason for answer in answers] == ["stop"] * 3
    assert [answer.generated_tokens for answer in answers] == [1] * 3


def test_a_stop_string_at_the_last_token_is_the_reason(language_model):
    """An answer with exactly max_new_tokens was ended by the stop string, whatever blanks that has."""
    (free, *_) = answer_all(language_model, max_new_tokens=NEW_TOKENS)
    stop = [f" {free.text.split()[2]}"]
    (stopped, *_) = answer_all(language_model, max_new_tokens=NEW_TOKENS, stop=stop)
    assert stopped.finish_reason == "stop" and 0 < stopped.generated_tokens <= 3
    (exact, *_) = answer_all(language_model, max_new_tokens=stopped.generated_tokens, stop=stop)
    assert (exact.finish_reason, exact.token_ids) == ("stop", stopped.token_ids)


def test_without_a_stop_string_in_it_an_answer_ends_by_length(language_model):
    plain = answer_all(language_model, max_new_tokens=2)
    stopped = answer_all(language_model, max_new_tokens=2, stop=["\n", "never said", "漢"])
    assert [answer.finish_reason for answer in stopped] == [answer.finish_reason for answer in plain]
    assert [answer.token_ids for answer in stopped] == [answer.token_ids for answer in plain]
    assert "length" in {answer.finish_reason for answer in plain}
