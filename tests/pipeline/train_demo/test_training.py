"""Training in miniature: real pictures, real models, few steps."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.demo.ask import SceneQuestion
from pipeline.models.demo.tokenizers import clip_tokenizer, llama_tokenizer
from pipeline.train_demo import loop
from pipeline.train_demo.corpus import open_corpus, patchify, unpatchify
from pipeline.train_demo.language import Row, all_right, answer_losses, llava_config, make_parts, pack_rows
from pipeline.train_demo.start import LOCAL_LAYERS
from pipeline.train_demo.tower import MEAN, STD, hidden_states, last_cls, make_clip, text_embeds
from pipeline.train_demo.tower_batch import places_of, sample_batch, tower_corpus_texts
from pipeline.train_demo.turns import Conversation

TEMPLATE = "A chat. USER: <image>\n{question} ASSISTANT:"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return open_corpus(tmp_path_factory.mktemp("corpus"), "val", 0, 24)


@pytest.fixture(scope="module")
def clip(corpus):
    tokenizer = clip_tokenizer(sorted(set(tower_corpus_texts(corpus))), 800)
    return make_clip(tokenizer, 0).eval(), tokenizer


@pytest.fixture(scope="module")
def talk(corpus):
    texts = sorted(set(tower_corpus_texts(corpus)))
    tokenizer = llama_tokenizer([*texts, TEMPLATE.replace("<image>", "")], 800, True)
    return Conversation(tokenizer, TEMPLATE), tokenizer


@pytest.mark.slow
def test_patches_are_laid_out_as_the_convolution_reads_them(corpus, clip):
    """Hidden states from patches equal those of the library's own tower."""
    model, _ = clip
    square = unpatchify(corpus.pixels[0])
    assert (patchify(square) == corpus.pixels[0]).all()
    pixels = (torch.from_numpy(square).float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    with torch.no_grad():
        output = model.vision_model(pixels.permute(2, 0, 1)[None], output_hidden_states=True)
        patches = torch.from_numpy(np.array(corpus.pixels[0]))[None]
        before_last = hidden_states(model, patches)[-1]
        cls = last_cls(model, before_last)
    torch.testing.assert_close(before_last, output.hidden_states[-2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cls, output.hidden_states[-1][:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_untrained_tower_looks_around_each_patch(clip):
    model, _ = clip
    waves_ND = model.vision_model.embeddings.position_embedding.weight[1:]
    rows, columns = torch.arange(576) // 24, torch.arange(576) % 24
    for layer in LOCAL_LAYERS:
        attention = model.vision_model.encoder.layers[layer].self_attn
        for head in range(attention.num_heads):
            head_slice = slice(head * attention.head_dim, (head + 1) * attention.head_dim)
            scores_NN = (waves_ND @ attention.q_proj.weight[head_slice].T) @ (
                waves_ND @ attention.k_proj.weight[head_slice].T
            ).T
            nearest = scores_NN.topk(5).indices
            distance = (rows[nearest] - rows[:, None]).abs() + (columns[nearest] - columns[:, None]).abs()
            assert distance.float().mean() < 3


def test_a_patch_and_its_place_lead_to_the_objects_middle():
    middles = (np.arange(24) + 0.5) * 14
    place = places_of(100.0, 60.0, 20.5).reshape(24, 24, 3)
    assert place[3, 5] == pytest.approx([(100 - middles[5]) / 41, (60 - middles[3]) / 41, 0.5])


@pytest.mark.slow
def test_texts_are_encoded_as_clip_does(clip):
    model, tokenizer = clip
    with torch.no_grad():
        ours = text_embeds(model, tokenizer, ["a small red circle", "circles", "a small red circle"])
        tokens = tokenizer(["circles"], return_tensors="pt")
        alone = model.get_text_features(**tokens).pooler_output
    torch.testing.assert_close(ours[1], alone[0], rtol=1e-4, atol=1e-5)
    assert (ours[0] == ours[2]).all()


@pytest.mark.slow
def test_objects_of_a_text_are_visible_and_marked_as_relevant(corpus):
    batch = sample_batch(corpus, np.random.default_rng(0), 8)
    assert batch.patches_BNF.shape == (8, 576, 588)
    assert batch.relevant_TN.shape == (len(batch.texts), 576) == (len(batch.picture_T), 576)
    for text, relevant in zip(batch.texts, batch.relevant_TN, strict=True):
        if text.startswith(("a ", "Describe", "Where", "What")):
            assert (relevant == 1).any(), text
    again = sample_batch(corpus, np.random.default_rng(0), 8)
    assert again.texts == batch.texts and (again.patches_BNF == batch.patches_BNF).all()


@pytest.mark.slow
def test_turns_packed_into_one_row_have_the_losses_of_separate_rows(corpus, clip, talk):
    conversation, tokenizer = talk
    parts = make_parts(llava_config(tokenizer, clip[0].vision_model.config), 0).eval()
    questions = corpus.truths[0].questions
    turns = tuple(conversation.turn(item) for item in questions)
    rows = [Row(torch.randn(20 + n, 128), turns) for n in range(2)]
    with torch.no_grad():
        together, right, turn_of = answer_losses(parts, pack_rows(conversation.prefix, rows))
        alone = [
            answer_losses(parts, pack_rows(conversation.prefix, [Row(row.tokens_KD, (turn,))]))[0]
            for row in rows
            for turn in row.turns
        ]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    judged = all_right(right, turn_of, [*turns, *turns])
    assert judged.tolist() == [bool(right[turn_of == n].all()) for n in range(2 * len(turns))]


@pytest.mark.slow
def test_a_turn_is_the_prompt_that_a_run_sends_and_its_answer(talk):
    conversation, tokenizer = talk
    turn = conversation.turn(SceneQuestion("color", "What color is the ring?", ("red", "crimson"), ()))
    prompt = tokenizer(TEMPLATE.replace("{question}", "What color is the ring?"))["input_ids"]
    image = tokenizer.convert_tokens_to_ids("<image>")
    prompt_ids = turn.token_ids[: -turn.answer_length]
    assert [*conversation.prefix, image, *prompt_ids] == prompt
    assert tokenizer.decode(turn.token_ids[-turn.answer_length :], skip_special_tokens=True).strip() == "red"
    assert turn.token_ids[-1] == tokenizer.eos_token_id


def test_training_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    """Training stopped within a step and resumed gives bit-identical weights."""
    monkeypatch.setattr(loop, "SAVE_EVERY_S", 0.0)

    def trained(folder, stop_at):
        torch.manual_seed(0)
        module = nn.Linear(3, 2)

        def losses(step):
            if step == stop_at:
                raise KeyboardInterrupt
            x = torch.from_numpy(np.random.default_rng(step).normal(size=(4, 3))).float()
            return {"square": module(x).square().mean(), "other": module.weight.abs().mean()}

        loop.train(
            tmp_path / folder,
            module,
            loop.Schedule(12, 0.1, warmup=3),
            losses,
            weights={"square": 1.0, "other": 0.1},
            validate=lambda: {"norm": float(module.weight.detach().norm())},
            validate_every=5,
            say=lambda line: None,
        )
        return module.weight

    whole = trained("whole", None)
    with pytest.raises(KeyboardInterrupt):
        trained("stopped", 7)
    assert (trained("stopped", None) == whole).all()
    logs = [(tmp_path / folder / "log.jsonl").read_text().splitlines() for folder in ("whole", "stopped")]
    assert [json.loads(line)["step"] for line in logs[0]] == [5, 10, 12]
    assert [json.loads(line)["norm"] for line in logs[0]] == [json.loads(line)["norm"] for line in logs[1]]


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path):
    module = nn.Linear(1, 1)
    with pytest.raises(RuntimeError, match="the loss of step 0 is not finite"):
        loop.train(
            tmp_path / "part",
            module,
            loop.Schedule(2, 0.1),
            lambda step: {"loss": module.weight.sum() * float("nan")},
            weights={"loss": 1.0},
            validate=dict,
            validate_every=1,
            say=lambda line: None,
        )
