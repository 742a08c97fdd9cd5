"""Test the engine against LlavaForConditionalGeneration.generate, token for token in float32."""

import random
import re
from types import SimpleNamespace

import pytest
import torch
from PIL import ImageOps
from transformers import AutoProcessor, LlavaForConditionalGeneration

from pipeline.engines.answers import share
from pipeline.engines.base import Request
from pipeline.engines.batches import pad_behind
from pipeline.engines.transformers import Transformers
from pipeline.models.clip import ClipEncoder
from pipeline.models.config import Decoding, Model
from pipeline.models.llava import LanguageModel
from pipeline.models.preprocess import Preprocessor
from pipeline.support.errors import ConfigError

TEMPLATE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. USER: <image>\n{question} ASSISTANT:"
)
QUESTIONS = [
    "What is shown in the picture?",
    "How many people are there? Answer the question using a single word or phrase.",
    "Describe it.",
]
NEW_TOKENS = 12


@pytest.fixture(scope="module")
def language_model(random_checkpoint):
    return LanguageModel(random_checkpoint / "llava")


@pytest.fixture(scope="module")
def reference(random_checkpoint, photographs):
    """Answer 12 images with the library, 6 of them also from some patches only."""
    folder = random_checkpoint / "llava"
    model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    processor = AutoProcessor.from_pretrained(folder)
    preprocess = Preprocessor(folder)
    encoder = ClipEncoder(
        *[random_checkpoint / "clip"] * 2,
        feature_layer=3,
        normalization=preprocess.normalization,
        needs=frozenset(),
    )
    images = [ImageOps.mirror(image) if i % 3 == 2 else image for i, image in enumerate(photographs[:12])]
    requests, expected, gaps = [], [], []

    def run(request, **inputs):
        length = inputs["input_ids"].shape[1] if "input_ids" in inputs else 0
        output = model.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
        top_G2 = torch.stack(output.logits)[:, 0].topk(2).values
        requests.append(request)
        expected.append(output.sequences[0, length:].tolist())
        gaps.append((top_G2[:, 0] - top_G2[:, 1]).min().item())

    with torch.inference_mode():
        for i, image in enumerate(images):
            prompt = TEMPLATE.format(question=QUESTIONS[i % 3])
            pixels = torch.from_numpy(preprocess(image))[None]
            patches_ND = encoder.encode_images(pixels, frozenset())["patches"][0]
            run(Request(prompt, patches_ND), **processor(text=prompt, images=image, return_tensors="pt"))
            if i % 2:
                kept_KD = patches_ND[:: 3 + i]
                ids = processor.tokenizer(prompt, return_tensors="pt").input_ids[0]
                at = ids.tolist().index(model.config.image_token_id)
                text_LH = model.get_input_embeddings()(ids)
                visual_KH = model.model.multi_modal_projector(kept_KD)
                embeds_LH = torch.cat([text_LH[:at], visual_KH, text_LH[at + 1 :]])
                mask = torch.ones(1, len(embeds_LH), dtype=torch.int64)
                run(Request(prompt, kept_KD), inputs_embeds=embeds_LH[None], attention_mask=mask)
    order = random.Random(0).sample(range(len(requests)), len(requests))
    return SimpleNamespace(
        requests=[requests[i] for i in order],
        expected=[expected[i] for i in order],
        min_gap=min(gaps),
        model=model,
        processor=processor,
    )


def engine(language_model, seed=0, decoding=None, **config):
    decoding = decoding or Decoding(max_new_tokens=NEW_TOKENS)
    return Transformers(**config).of_model(language_model, decoding, seed=seed)


@pytest.mark.parametrize(
    "config",
    [{}, {"max_batch": 1}, {"max_batch": 5}, {"token_budget": 2000}, {"token_budget": 1}],
    ids=str,
)
def test_greedy_answers_equal_the_librarys_token_for_token(language_model, reference, config):
    answers = engine(language_model, **config).generate(reference.requests)
    for request, answer, expected in zip(reference.requests, answers, reference.expected, strict=True):
        ended = expected[-1] == 2
        assert list(answer.token_ids) == (expected[:-1] if ended else expected)
        assert answer.finish_reason == ("stop" if ended else "length")
        assert answer.text == reference.processor.decode(expected, skip_special_tokens=True).strip()
        assert answer.generated_tokens == len(answer.token_ids)
        assert answer.prompt_tokens == len(language_model.tokenize(request.prompt)) - 1
        assert answer.error is None
        assert 0 < answer.prefill_s <= answer.generate_s


def embed_prompt(language_model, request):
    return language_model.embed_ids(language_model.tokenize(request.prompt), request.tokens_KD)


@torch.inference_mode()
def test_greedy_answers_can_be_compared(language_model, reference):
    """Answers differ, some end early, and no choice of token is close enough for batching to change it."""
    assert len({tuple(ids) for ids in reference.expected}) >= 0.9 * len(reference.expected)
    assert 0.1 < sum(ids[-1] == 2 for ids in reference.expected) / len(reference.expected) < 0.9
    embed = language_model.model.get_input_embeddings()
    chosen = list(zip(reference.requests, reference.expected, strict=True))[:12]
    sequences = [torch.cat([embed_prompt(language_model, r), embed(torch.tensor(ids))]) for r, ids in chosen]
    inputs_BLH, mask_BL = pad_behind(sequences, 0)
    positions_BL = (mask_BL.cumsum(-1) - 1).clamp(min=0)
    together = language_model.model(
        inputs_embeds=inputs_BLH, attention_mask=mask_BL, position_ids=positions_BL
    ).logits
    noise = 0.0
    for (_, ids), sequence, row in zip(chosen, sequences, together, strict=True):
        alone = language_model.model(inputs_embeds=sequence[None]).logits[0]
        noise = max(noise, (alone[-len(ids) - 1 :] - row[-len(ids) - 1 :]).abs().max().item())
    print(f"smallest gap {reference.min_gap:.2e}, batching noise {noise:.2e}")
    assert reference.min_gap > 1e-3
    assert reference.min_gap > 5 * noise


def test_shares_of_a_batch_add_up(language_model, reference):
    answers = engine(language_model).generate(reference.requests[:4])
    head = len(language_model.head([language_model.tokenize(reference.requests[0].prompt)]))
    computed = [a.prompt_tokens + len(r.tokens_KD) - head for a, r in zip(answers, reference.requests)]  # noqa: B905
    rates = {answer.prefill_s / tokens for answer, tokens in zip(answers, computed, strict=True)}
    assert max(rates) == pytest.approx(min(rates))


def test_stop_strings_cut_the_text_and_end_the_answer(language_model, reference):
    plain = engine(language_model).generate(reference.requests)
    words = sorted({word for answer in plain for word in answer.text.split()[2:]})
    stop = min(words, key=lambda word: abs(sum(word in answer.text for answer in plain) - len(plain) / 2))
    decoding = Decoding(max_new_tokens=NEW_TOKENS, stop=[stop, "never said"])
    stopped = engine(language_model, decoding=decoding, max_batch=7).generate(reference.requests)
    assert {stop in answer.text for answer in plain} == {True, False}
    for free, cut in zip(plain, stopped, strict=True):
        assert cut.text == free.text.split(stop)[0].strip()
        assert cut.token_ids == free.token_ids[: cut.generated_tokens]
        if stop in free.text:
            assert cut.finish_reason == "stop"
            until = language_model.tokenizer.decode(cut.token_ids)
            assert re.search(re.escape(stop) + r"\w*$", until), until  # generation ended there
        else:
            assert cut == SimilarTo(free)


class SimilarTo:
    """Compares answers without their seconds."""

    def __init__(self, answer):
        self.answer = answer

    def __eq__(self, other):
        return all(
            getattr(self.answer, name) == getattr(other, name)
            for name in ("text", "finish_reason", "prompt_tokens", "token_ids", "error")
        )


def test_a_too_long_request_is_refused_and_the_others_are_answered(language_model, reference):
    short = reference.requests[:2]
    room = language_model.max_positions - NEW_TOKENS - (len(language_model.tokenize(short[0].prompt)) - 1)
    fits = Request(short[0].prompt, torch.randn(room, 64))
    too_long = Request(short[0].prompt, torch.randn(room + 1, 64))
    answers = engine(language_model, token_budget=600).generate([too_long, *short, fits])
    assert answers[0].text is None
    assert answers[0].finish_reason is None
    assert "4085 input tokens and max_new_tokens 12 exceed the model's 4096 positions" in answers[0].error
    assert answers[0].prompt_tokens > 0
    for answer, expected in zip(answers[1:3], reference.expected[:2], strict=True):
        assert list(answer.token_ids) == [token for token in expected if token != 2]
    assert answers[3].error is None


def test_no_requests_give_no_answers(language_model):
    assert engine(language_model).generate([]) == []


def test_sampling_is_reproducible_and_depends_on_the_seed(language_model, reference):
    decoding = Decoding(max_new_tokens=8, temperature=5.0, top_p=0.99)
    requests = reference.requests[:8]
    state = torch.get_rng_state()
    first = engine(language_model, decoding=decoding, seed=1).generate(requests)
    assert torch.equal(state, torch.get_rng_state())  # the process's random state is unchanged
    torch.manual_seed(99)
    repeated = engine(language_model, decoding=decoding, seed=1).generate(requests)
    other_seed = engine(language_model, decoding=decoding, seed=2).generate(requests)
    greedy = engine(language_model, decoding=Decoding(max_new_tokens=8)).generate(requests)
    ids = [[answer.token_ids for answer in answers] for answers in (first, repeated, other_seed, greedy)]
    assert ids[0] == ids[1]
    assert ids[0] != ids[2]
    assert ids[0] != ids[3]


def test_a_checkpoints_generation_config_is_ignored(random_checkpoint, reference, tmp_path):
    import json
    import shutil

    shutil.copytree(random_checkpoint / "llava", tmp_path / "llava")
    file = tmp_path / "llava/generation_config.json"
    settings = {
        "do_sample": True,
        "temperature": 9.0,
        "top_p": 0.6,
        "repetition_penalty": 3.0,
        "max_length": 20,
    }
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    answers = engine(LanguageModel(tmp_path / "llava")).generate(reference.requests[:3])
    for answer, expected in zip(answers, reference.expected[:3], strict=True):
        assert list(answer.token_ids) == [token for token in expected if token != 2]


def test_the_configuration_loads_the_engine(random_checkpoint, reference):
    model = Model(
        name="random",
        path=str(random_checkpoint / "llava"),
        clip=str(random_checkpoint / "clip"),
        template=TEMPLATE,
        generate_dtype="bfloat16",
    )
    loaded = Transformers(max_batch=3).load(model, Decoding(max_new_tokens=4), device="cpu", seed=0)
    answers = loaded.generate(reference.requests[:4])
    assert all(answer.text is not None and answer.generated_tokens <= 4 for answer in answers)
    with pytest.raises(ConfigError, match=r"engine\.token_budget"):
        Transformers(token_budget=0)


def test_a_cached_head_changes_no_answer(language_model, reference):
    """Also when two templates alternate, and when one batch has both."""
    answers = [
        engine(language_model, prefix_cache=cached).generate(reference.requests) for cached in (True, False)
    ]
    assert [answer.token_ids for answer in answers[0]] == [answer.token_ids for answer in answers[1]]
    other_template = [
        Request(f"Hm. {request.prompt}", request.tokens_KD) for request in reference.requests[:4]
    ]
    cached, plain = engine(language_model), engine(language_model, prefix_cache=False)
    for requests in (other_template, reference.requests[:4], other_template[:2] + reference.requests[:2]):
        ours, theirs = cached.generate(requests), plain.generate(requests)
        assert [answer.token_ids for answer in ours] == [answer.token_ids for answer in theirs]


def test_share():
    assert share(6.0, [1, 2]) == [2.0, 4.0]
    assert share(6.0, [0, 0]) == [3.0, 3.0]
