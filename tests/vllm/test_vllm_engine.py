"""The vLLM engine against the transformers engine: token for token in float32."""

import shutil
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.engines.base import Request, Setting
from pipeline.engines.transformers import Transformers
from pipeline.engines.vllm import Vllm
from pipeline.engines.vllm_steps import Generation
from pipeline.models.config import Decoding
from pipeline.support.errors import ConfigError
from tests.support.adapters import make_adapter

pytestmark = pytest.mark.slow  # each loads an engine or two

NEW_TOKENS = 24
TEMPLATE = "USER: <image>\n{question} ASSISTANT:"


@contextmanager
def loaded(model, decoding=None, seed=0, **config):
    """Load an engine and close it afterwards, since a process can hold only one."""
    decoding = decoding or Decoding(max_new_tokens=NEW_TOKENS)
    engine = Vllm(kv_cache_gib=0.25, **config).load(model, decoding, device="cpu", seed=seed)
    try:
        yield engine
    finally:
        engine.close()


def same(answer, other) -> bool:
    """True if two answers are equal except for their seconds."""
    names = ("text", "finish_reason", "prompt_tokens", "generated_tokens", "error", "token_ids")
    return all(getattr(answer, name) == getattr(other, name) for name in names)


@pytest.fixture(scope="module")
def plain(model, requests):
    """All requests in one call, and then in four calls at once."""
    with loaded(model) as engine:
        answers = engine.generate(requests)
        alone = engine.most_callers
        parts: list = [None] * 4
        threads = [
            threading.Thread(
                target=lambda part=part: parts.__setitem__(part, engine.generate(requests[part::4]))
            )
            for part in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield answers, alone, parts, engine.most_callers


def test_greedy_answers_are_those_of_transformers(plain, requests, expected):
    answers, *_ = plain
    assert len(requests) >= 50
    assert {len(request.tokens_KD) for request in requests} >= {1, 576}
    assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in expected]
    assert all(map(same, answers, expected))


def test_expected_answers_differ_and_some_end_early(expected):
    """Otherwise equality with transformers would prove little."""
    assert len({answer.token_ids for answer in expected}) >= 0.8 * len(expected)
    stopped = sum(answer.finish_reason == "stop" for answer in expected)
    assert 0.1 < stopped / len(expected) < 0.95


def test_units_share_the_steps_of_the_engine(plain, expected):
    """Four concurrent calls, as from four units, share the steps and get the same answers."""
    _, alone, parts, together = plain
    assert (alone, together) == (1, 4)
    for number, part in enumerate(parts):
        assert all(map(same, part, expected[number::4]))


def test_seconds_are_shares_of_the_whole(plain):
    answers, *_ = plain
    assert all(0 < answer.prefill_s <= answer.generate_s for answer in answers)
    long = max(answers, key=lambda answer: answer.generated_tokens)
    assert long.generate_s > long.prefill_s


def test_the_prefix_cache_works_on_embeddings(model, requests, expected):
    """An image's tokens are cached in blocks of 32 for its next question, and no answer changes."""
    image = max((request.tokens_KD for request in requests), key=len)
    texts = ("what is it?", "why is it so?", "how many are there?")
    questions = [Request(TEMPLATE.format(question=text), image) for text in texts]
    with loaded(model) as engine:
        tasks = []
        submit = engine._steps.submit
        engine._steps.submit = lambda task: (tasks.append(task), submit(task))
        assert all(map(same, engine.generate(requests), expected))
        assert all(map(same, engine.generate(requests), expected))
        head = engine._prompts.tokenize(questions[0].prompt).index(engine._prompts.image_token_id)
        for question in questions:
            engine.generate([question])
    for task in tasks[len(requests) : 2 * len(requests)]:  # all blocks except the one with the last token
        assert task.cached_tokens == (task.length - 1) // 32 * 32
    assert [task.cached_tokens for task in tasks[-3:]] == [0, *[(head + len(image)) // 32 * 32] * 2]
    with loaded(model, prefix_cache=False) as engine:
        assert all(map(same, engine.generate(requests), expected))


def test_small_steps_change_no_answer(model, requests, expected):
    """Prompts are split over several steps, which also generate for other requests."""
    config = Vllm().settled(Setting(on_gpu=False)).other_batches()
    assert (config.max_num_seqs, config.max_batched_tokens) == (32, 4096)
    with loaded(model, max_num_seqs=7, max_batched_tokens=100) as engine:
        answers = engine.generate(requests)
    assert all(map(same, answers, expected))
    assert all(0 < answer.prefill_s <= answer.generate_s for answer in answers)


def test_stop_strings_cut_the_text_and_end_the_answer(model, requests, expected):
    words = sorted({word for answer in expected for word in answer.text.split()[2:]})
    stop = min(
        words, key=lambda word: abs(sum(word in answer.text for answer in expected) - len(expected) / 2)
    )
    decoding = Decoding(max_new_tokens=NEW_TOKENS, stop=[stop, "never said"])
    with loaded(model, decoding) as engine:
        stopped = engine.generate(requests)
        tokenizer = engine._prompts.tokenizer
    assert {stop in answer.text for answer in expected} == {True, False}
    for free, cut in zip(expected, stopped, strict=True):
        assert cut.text == free.text.split(stop)[0].strip()
        assert cut.token_ids == free.token_ids[: cut.generated_tokens]
        if stop in free.text:
            assert cut.finish_reason == "stop"
            assert stop not in tokenizer.decode(cut.token_ids[:-1])  # nothing was generated beyond it
        else:
            assert same(cut, free)


def test_a_too_long_request_is_refused_and_the_rest_is_answered(model, requests, expected):
    import torch

    with loaded(model, max_model_len=700) as engine:
        text = len(engine._prompts.tokenize(requests[0].prompt)) - 1
        room = 700 - NEW_TOKENS - text
        fits, too_long = (Request(requests[0].prompt, torch.randn(kept, 64)) for kept in (room, room + 1))
        answers = engine.generate([too_long, requests[1], fits])
        assert engine.generate([]) == []
    assert (answers[0].text, answers[0].finish_reason) == (None, None)
    assert answers[0].error == (
        f"{room + 1 + text} input tokens and max_new_tokens {NEW_TOKENS} exceed the model's 700 positions"
    )
    assert answers[0].prompt_tokens == text
    assert same(answers[1], expected[1])
    assert answers[2].error is None


def test_sampling_depends_on_the_seed_and_the_requests_key_alone(model, requests):
    decoding = Decoding(max_new_tokens=8, temperature=2.0, top_p=0.99)
    requests = [replace(request, key=str(number)) for number, request in enumerate(requests)]
    with loaded(model, decoding, seed=1) as engine:
        first = [answer.token_ids for answer in engine.generate(requests[:12])]
        again = [engine.generate([request])[0].token_ids for request in requests[:12]]
        twin = replace(requests[0], key="another")
        assert engine._sampling(twin).seed != engine._sampling(requests[0]).seed
        other_arm = replace(requests[0], tokens_KD=requests[1].tokens_KD)
        assert engine._sampling(other_arm).seed == engine._sampling(requests[0]).seed
    with loaded(model, decoding, seed=2) as engine:
        other = [answer.token_ids for answer in engine.generate(requests[:12])]
    assert first == again
    assert first != other


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_scores_that_are_no_numbers_fail_their_request_alone(model, requests, expected, value, temperature):
    spoilt = replace(requests[1], tokens_KD=requests[1].tokens_KD * value)
    with loaded(model, Decoding(max_new_tokens=NEW_TOKENS, temperature=temperature)) as engine:
        answers = engine.generate([requests[0], spoilt, requests[2]])
    assert [answer.status for answer in answers] == ["ok", "failed", "ok"]
    assert answers[1].text is None and "token 1 of the answer are not finite" in answers[1].error
    if not temperature:
        assert same(answers[0], expected[0]) and same(answers[2], expected[2])


def test_a_failing_engine_fails_all_waiting_and_later_calls(model, requests):
    """Later calls fail at once instead of waiting forever."""
    import torch

    with loaded(model, max_num_seqs=2) as engine:
        wrong = Generation(torch.zeros(3), engine._sampling(requests[0]), 0)
        engine._steps.submit(wrong)
        with pytest.raises(ValueError, match="shape"):
            engine.generate(requests[:8])
        with pytest.raises(ValueError, match="shape"):
            engine.generate(requests[:1])


def test_another_device_than_vllms_is_refused(model):
    with pytest.raises(ConfigError, match="device=cuda"):
        Vllm().load(model, Decoding(), device="cuda", seed=0)


def test_an_argument_that_vllm_does_not_know_is_refused_and_a_known_one_arrives(model, requests, expected):
    with (
        pytest.raises(ConfigError, match=r"engine\.args\.max_logprob: the vLLM"),
        loaded(model, args={"max_logprob": 3}),
    ):
        pass
    with loaded(model, args={"long_prefill_token_threshold": 64}) as engine:
        assert all(map(same, engine.generate(requests[:4]), expected))


def test_an_adapter_answers_as_the_merged_checkpoint(model, requests, expected, tmp_path):
    """Merged here by hand into a copy of the LLaVA, which the transformers engine answers from."""
    from safetensors.torch import load_file, save_file

    adapter = make_adapter(Path(model.path), tmp_path / "adapter", size=0.2)
    shutil.copytree(model.path, tmp_path / "merged")
    file = tmp_path / "merged" / "model.safetensors"
    weights, sides = load_file(file), load_file(adapter / "adapter_model.safetensors")
    for name in [name for name in sides if ".lora_A." in name]:
        layer = name.removeprefix("base_model.model.").replace(".lora_A.", ".")
        layer = layer if layer in weights else layer.replace("model.language_model", "language_model.model")
        weights[layer] += 2.0 * sides[name.replace(".lora_A.", ".lora_B.")] @ sides[name]
    save_file(weights, file, {"format": "pt"})
    merged = replace(model, path=str(tmp_path / "merged"))
    engine = Transformers(max_batch=16).load(
        merged, Decoding(max_new_tokens=NEW_TOKENS), device="cpu", seed=0
    )
    wanted = engine.generate(requests[:12])
    assert not all(map(same, wanted, expected)), "the adapter changes answers"
    with loaded(model, lora=str(adapter)) as engine:
        assert all(map(same, engine.generate(requests[:12]), wanted))
