"""Test what a run decodes: a checkpoint's settings, draws of single requests, scores that are no numbers."""

import json
from collections import Counter

import pytest
import torch
import transformers

from pipeline.engines.next_token import Draw, Finite, uniform
from pipeline.models.prompts import load_tokenizer
from pipeline.run.in_process import run_in_process
from pipeline.run.prepare import prepare
from pipeline.support.errors import ConfigError
from tests.support import variants as v
from tests.support.against import answers_of, library_answers, options, rows_of, write_requests
from tests.support.commands import compose

SAMPLED = ("decoding.temperature=3", "decoding.top_p=0.95", "seed=5")


@pytest.fixture(scope="module")
def requests(tmp_path_factory, photographs):
    return write_requests(tmp_path_factory.mktemp("asked"), photographs)


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 8},
        {"min_length": 618},
        {"suppress_tokens": [300, 301, 302]},
        {"repetition_penalty": 1.1, "no_repeat_ngram_size": 1, "bad_words_ids": [[310], [311, 312]]},
    ],
    ids=str,
)
def test_a_checkpoints_own_settings_are_told_or_done(random_checkpoint, requests, tmp_path, settings):
    root = v.copy_of(random_checkpoint, tmp_path / "model", v.generation(**settings))
    plain = compose(*options(root, requests))
    (note,) = prepare(plain).notes
    assert all(key in note for key in settings) and "decoding.from_checkpoint=true" in note
    own = "decoding.from_checkpoint=true", f"output={tmp_path}/own"
    assert prepare(compose(*options(root, requests, *own))).notes == ()
    assert answers_of(root, requests, *own) == library_answers(root, requests, plain.model.template)


@pytest.mark.parametrize("where", ["", "text_config__"])
def test_settings_of_config_json_count_without_a_generation_config(
    random_checkpoint, requests, tmp_path, where
):
    change = v.both(v.no_generation, v.config(**{f"{where}repetition_penalty": 1.3}))
    root = v.copy_of(random_checkpoint, tmp_path / "model", change)
    plain = compose(*options(root, requests))
    (note,) = prepare(plain).notes
    assert "config.json asks for repetition_penalty=1.3" in note
    own = "decoding.from_checkpoint=true", f"output={tmp_path}/own"
    assert answers_of(root, requests, *own) == library_answers(root, requests, plain.model.template)


@pytest.mark.parametrize("without_a_file", [False, True])
def test_settings_written_out_as_they_are_by_default_ask_for_nothing(
    random_checkpoint, requests, tmp_path, without_a_file
):
    every = transformers.GenerationConfig._get_default_generation_params()
    defaults = {key: value for key, value in every.items() if value is not None}
    change = v.generation(**defaults)
    if without_a_file:
        of_text = {f"text_config__{key}": value for key, value in defaults.items()}
        change = v.both(v.no_generation, v.config(**of_text))
    root = v.copy_of(random_checkpoint, tmp_path / "model", change)
    assert len(defaults) > 20 and prepare(compose(*options(root, requests))).notes == ()
    own = "decoding.from_checkpoint=true", f"output={tmp_path}/own"
    assert prepare(compose(*options(root, requests, *own))).notes == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda end: v.generation(eos_token_id=end),
        lambda end: v.both(v.no_generation, v.config(eos_token_id=end)),
        lambda end: v.both(v.no_generation, v.config(text_config__eos_token_id=[2, end])),
        lambda end: v.both(v.no_generation, v.config(text_config__eos_token_id=301, eos_token_id=end)),
        lambda end: v.both(
            v.generation(eos_token_id=end), v.config(eos_token_id=301, text_config__eos_token_id=302)
        ),
    ],
)
def test_an_answer_ends_where_transformers_ends_it(random_checkpoint, requests, tmp_path, change):
    answers = answers_of(random_checkpoint, requests, f"output={tmp_path}/out")
    tokenizer = load_tokenizer(random_checkpoint / "llava")
    word = next(iter(answers.values())).split()[3]
    (end,) = tokenizer.encode(word, add_special_tokens=False)
    root = v.copy_of(random_checkpoint, tmp_path / "model", change(end))
    expected = library_answers(root, requests, compose(*options(root, requests)).model.template)
    assert any(answer.endswith(word) for answer in expected.values())  # which is cut off here
    cut = {name: answer.removesuffix(word).strip() for name, answer in expected.items()}
    assert answers_of(root, requests) == cut
    assert prepare(compose(*options(root, requests, f"output={tmp_path}/more"))).notes == ()


def test_an_end_that_the_checkpoint_does_not_name_is_told(random_checkpoint, requests, tmp_path):
    root = v.copy_of(random_checkpoint, tmp_path / "model", v.generation(eos_token_id=None))
    (note,) = prepare(compose(*options(root, requests))).notes
    assert "names no eos_token_id: answers end at the language model's (2)" in note
    assert answers_of(root, requests)


@pytest.mark.parametrize("end", ["</s>", -1, [True], [], {}, 2.0])
def test_an_end_that_is_no_token_is_refused(random_checkpoint, requests, tmp_path, end):
    root = v.copy_of(random_checkpoint, tmp_path / "model", v.generation(eos_token_id=end))
    with pytest.raises(ConfigError, match="eos_token_id"):
        prepare(compose(*options(root, requests)))


def test_keys_that_nothing_reads_are_told(random_checkpoint, requests, tmp_path):
    change = v.config(
        text_config__alibi=True, mm_newline="x", vision_config__vocab_size=32000, ignore_index=-100
    )
    root = v.copy_of(random_checkpoint, tmp_path / "model", change)
    (note,) = prepare(compose(*options(root, requests))).notes
    assert "nothing reads mm_newline, text_config.alibi, transformers neither" in note


def test_a_checkpoint_may_ask_to_sample(random_checkpoint, requests, tmp_path):
    asked = {"do_sample": True, "temperature": 3.0, "top_k": 0, "top_p": 0.95}
    root = v.copy_of(random_checkpoint, tmp_path / "model", v.generation(**asked))
    own = answers_of(root, requests, "decoding.from_checkpoint=true", "seed=5")
    assert own == answers_of(root, requests, *SAMPLED, f"output={tmp_path}/said")
    (note,) = prepare(compose(*options(root, requests, f"output={tmp_path}/greedy"))).notes
    assert "do_sample=True, temperature=3.0, top_p=0.95" in note


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        ({"num_beams": 4}, (), "num_beams=4"),
        ({"guidance_scale": 2.0}, (), r"guidance_scale=2\.0"),
        ({}, ("decoding.temperature=1",), "the checkpoint's temperature"),
        ({"do_sample": True, "temperature": 0.0}, (), "temperature"),
        ({"do_sample": True, "top_p": "x"}, (), "decoding.from_checkpoint"),
        ({"repetition_penalty": -1.0}, (), "penalty"),
    ],
)
def test_what_a_checkpoint_asks_and_is_not_done_is_refused(
    random_checkpoint, requests, tmp_path, settings, more, message
):
    root = v.copy_of(random_checkpoint, tmp_path / "model", v.generation(**settings))
    with pytest.raises(ConfigError, match=message):
        prepare(compose(*options(root, requests, "decoding.from_checkpoint=true", *more)))


@pytest.mark.parametrize("tokens", [5000, 3500])
def test_a_length_that_can_never_fit_is_refused(random_checkpoint, requests, tmp_path, tokens):
    more = f"output={tmp_path}/out", f"decoding.max_new_tokens={tokens}"
    with pytest.raises(ConfigError, match=rf"decoding\.max_new_tokens={tokens}.*4096 positions"):
        prepare(compose(*options(random_checkpoint, requests, *more)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "more",
    [
        ("engine.max_batch=1",),
        ("engine.max_batch=3", "engine.prefix_cache=false"),
        ("engine.token_budget=2000",),
        ("unit_samples=1",),
        ("unit_requests=3", "unit_samples=1"),
    ],
    ids=str,
)
def test_sampled_answers_do_not_depend_on_batches_and_units(random_checkpoint, requests, tmp_path, more):
    first = answers_of(random_checkpoint, requests, *SAMPLED, f"output={tmp_path}/a")
    again = answers_of(random_checkpoint, requests, *SAMPLED, *more, f"output={tmp_path}/b")
    assert first == again and len(set(first.values())) == len(first)
    other = answers_of(random_checkpoint, requests, *SAMPLED[:2], "seed=6", f"output={tmp_path}/c")
    assert all(first[name] != other[name] for name in first)


def test_equal_questions_of_different_rows_are_sampled_apart(random_checkpoint, photographs, tmp_path):
    (tmp_path / "asked").mkdir()
    write_requests(tmp_path / "asked", [photographs[0]] * 2, ["What is it?"] * 6)
    answers = answers_of(random_checkpoint, tmp_path / "asked", *SAMPLED, f"output={tmp_path}/out")
    assert len(set(answers.values())) > 8


def test_draws_have_the_distribution_of_the_scores():
    probabilities = torch.tensor([0.5, 0.0, 0.2, 0.3])
    scores = probabilities.log().expand(4000, 4)
    drawn = Draw(7, [str(number) for number in range(4000)])(torch.empty(4000, 0), scores).argmax(-1)
    counted = Counter(drawn.tolist())
    assert counted[1] == 0
    for token in (0, 2, 3):
        assert counted[token] / 4000 == pytest.approx(probabilities[token].item(), abs=0.03)
    numbers = [uniform(1, "a", step) for step in range(1000)]
    assert min(numbers) >= 0 and max(numbers) < 1 and len(set(numbers)) == 1000


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_only_the_row_with_a_fault_ends(bad):
    finite = Finite(3, 2, may_exclude=False)
    scores = torch.zeros(3, 5)
    assert torch.equal(finite(torch.empty(3, 0), scores), scores)
    scores[1, 4] = bad
    ended = finite(torch.empty(3, 1), scores)
    assert ended[1].tolist() == [float("-inf")] * 2 + [0] + [float("-inf")] * 2
    assert torch.equal(ended[[0, 2]], scores[[0, 2]])
    assert finite.first_fault_B.tolist()[1] == 1 and min(finite.first_fault_B[[0, 2]]) > 1000


def spoil(value: float) -> v.Change:
    """Spoil the embedding of the word "cup"."""

    def change(held):
        name = next(name for name in held if name.endswith("embed_tokens.weight"))
        held[name] = held[name].clone()
        held[name][CUP[0]] = value

    return v.weights(change)


CUP: list[int] = []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("more", [(), SAMPLED, ("engine.max_batch=1",)], ids=["greedy", "sampled", "alone"])
def test_scores_that_are_no_numbers_fail_their_request_alone(
    random_checkpoint, photographs, tmp_path, value, more
):
    words = json.loads((random_checkpoint / "llava/tokenizer.json").read_text())["model"]["vocab"]
    CUP[:] = [words["▁cup"]]
    (tmp_path / "asked").mkdir()
    asked = write_requests(tmp_path / "asked", photographs, ["What is it?", "Is the cup red?", "Who?"])
    root = v.copy_of(random_checkpoint, tmp_path / "model", spoil(value))
    rows = rows_of(root, asked, *more)
    whole = answers_of(random_checkpoint, asked, *more, f"output={tmp_path}/whole")
    for name, row in rows.items():
        if name.endswith("-1"):
            assert row["status"] == "failed" and "token 1 of the answer are not finite" in row["error"]
            assert row["prediction"] is None
        else:
            assert (row["status"], row["prediction"]) == ("ok", whole[name])
    assert {name for name in rows if name.endswith("-1")} == {"0-1", "1-1"}


def test_a_reducer_that_reads_no_text_needs_no_clip(random_checkpoint, requests, tmp_path):
    named = answers_of(random_checkpoint, requests, f"output={tmp_path}/named")
    bare = answers_of(random_checkpoint, requests, "model.clip=null", f"output={tmp_path}/bare")
    assert named == bare
    for reducer in ("trim", "cdpruner"):
        more = "model.clip=null", f"reducer={reducer}", f"output={tmp_path}/{reducer}"
        with pytest.raises(ConfigError, match=r"model\.clip must be given: reducer .* reads metric, text"):
            prepare(compose(*options(random_checkpoint, requests, *more)))
    more = "model.clip=null", "reducer=divprune", f"output={tmp_path}/divprune"
    run_in_process(compose(*options(random_checkpoint, requests, *more)))


def test_a_tuned_tower_is_told_where_texts_are_compared(random_checkpoint, requests, tmp_path):
    root = v.copy_of(random_checkpoint, tmp_path / "model", v.tuned(0.01))
    (note,) = prepare(compose(*options(root, requests, "reducer=trim"))).notes
    assert "vision tower" in note and " away from that of model.clip" in note
    assert prepare(compose(*options(root, requests, f"output={tmp_path}/full"))).notes == ()
    equal = compose(*options(random_checkpoint, requests, "reducer=trim", f"output={tmp_path}/equal"))
    assert prepare(equal).notes == ()
