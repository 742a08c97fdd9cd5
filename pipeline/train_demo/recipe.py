"""Trains the demo checkpoint from scratch: pictures, tower, language model, files.

Every part saves its state in a folder of its own below `work` and resumes from there.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer, LlamaTokenizer

from pipeline.models.demo.tokenizers import clip_tokenizer, llama_tokenizer
from pipeline.models.devices import torch_device
from pipeline.output.own_folder import require_begun_or_empty
from pipeline.train_demo import language, tower, tower_batch, tower_loss
from pipeline.train_demo.config import Recipe
from pipeline.train_demo.corpus import Corpus, open_corpus
from pipeline.train_demo.loop import Schedule, train
from pipeline.train_demo.probe import probe_tower
from pipeline.train_demo.turns import Conversation
from pipeline.train_demo.write_checkpoint import write_clip, write_llava

VOCABULARY = 1000
TOWER_WEIGHTS = {
    "global": 0.3,
    "region": 1.0,
    "patch": 1.0,
    "softmax": 1.0,
    "sigmoid": 1.0,
    "outline": 5.0,
    "place": 10.0,
    "middle": 2.0,
}
ROWS_AT_ONCE = 16


@dataclass(frozen=True)
class Inputs:
    """Holds the pictures and tokenizers of both stages, and the device."""

    train: Corpus
    dense: Corpus
    val: Corpus
    clip_tokenizer: CLIPTokenizer
    tokenizer: LlamaTokenizer
    device: torch.device
    folder: Path = field(kw_only=True)


def make_demo(recipe: Recipe, say: Callable[[str], None]) -> None:
    """Run the whole recipe, from the last saved state on, and write the checkpoints.

    Raises:
        ConfigError: a folder holds files of others.
    """
    require_begun_or_empty("recipe.work", recipe.work, "pictures")
    require_begun_or_empty("recipe.output", recipe.output, "clip")
    inputs = open_inputs(recipe, say)
    clip = train_tower(recipe, inputs, say)
    write_clip(Path(recipe.output) / "clip", clip, inputs.clip_tokenizer)
    parts = train_language(recipe, inputs, clip, say)  # reads the files: a run has the same weights
    write_llava(Path(recipe.output) / "llava", clip, parts, inputs.tokenizer)
    from pipeline.train_demo.model_card import write_model_card

    write_model_card(recipe, say)


def open_inputs(recipe: Recipe, say: Callable[[str], None]) -> Inputs:
    """Render or open the pictures and make the tokenizers."""
    folder = Path(recipe.work)
    pictures = folder / "pictures"
    count = recipe.train_pictures + recipe.dense_pictures
    say(f"pictures: {recipe.val_pictures} for validation, {count} to train on")
    val = open_corpus(pictures, "val", recipe.seed, recipe.val_pictures)
    corpus = open_corpus(pictures, "train", recipe.seed, recipe.train_pictures)
    dense = open_corpus(pictures, "dense", recipe.seed, recipe.dense_pictures)
    texts = sorted(set(tower_batch.tower_corpus_texts(corpus)))
    return Inputs(
        corpus,
        dense,
        val,
        clip_tokenizer([*texts, tower_batch.SUFFIX], VOCABULARY),
        llama_tokenizer(
            [*texts, recipe.template.replace("<image>", ""), tower_batch.SUFFIX], VOCABULARY, True
        ),
        torch_device(recipe.device),
        folder=folder,
    )


def train_tower(recipe: Recipe, inputs: Inputs, say: Callable[[str], None]) -> CLIPModel:
    """Train the vision and text towers: stage (a)."""
    plan = recipe.tower
    clip, loss = tower.make_clip(inputs.clip_tokenizer, recipe.seed), tower_loss.TowerLoss(tower.WIDTH)
    module = nn.ModuleDict({"clip": clip, "loss": loss}).to(inputs.device)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([recipe.seed, 1, step])
        corpus = inputs.dense if step % plan.ordinary_every else inputs.train
        batch = tower_batch.sample_batch(corpus, rng, plan.pictures).to(inputs.device)
        with _precision(inputs.device):
            terms: dict[str, Tensor] = loss(clip, inputs.clip_tokenizer, batch)
            return terms

    train(
        inputs.folder / "tower",
        module,
        Schedule(plan.steps, plan.learning_rate, plan.matrix_learning_rate),
        losses,
        weights=TOWER_WEIGHTS,
        validate=partial(probe_tower, clip, inputs.clip_tokenizer, inputs.val, recipe.probed_pictures),
        validate_every=recipe.validate_every,
        say=say,
    )
    clip.train(False)
    clip.requires_grad_(False)
    return clip


def train_language(
    recipe: Recipe, inputs: Inputs, clip: CLIPModel, say: Callable[[str], None]
) -> language.Parts:
    """Train projector and language model on the features of the frozen tower: stage (b)."""
    from pipeline.train_demo import token_arms as arms
    from pipeline.train_demo.probe_language import probe_language

    plan = recipe.language
    say("features: running the tower over all pictures")
    config = language.llava_config(inputs.tokenizer, clip.vision_model.config)
    layer = clip.vision_model.config.num_hidden_layers + 1 + config.vision_feature_layer
    features, val_features = (
        arms.encode(Path(recipe.output) / "clip", layer, corpus, inputs.device)
        for corpus in (inputs.train, inputs.val)
    )
    talk = Conversation(inputs.tokenizer, recipe.template)
    parts = language.make_parts(config, recipe.seed).to(inputs.device)

    def losses(step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([recipe.seed, 2, step])
        second_round = step >= plan.first_round
        ask = arms.new_questions(features, rng) if second_round else arms.rendered_questions(features)
        step_of_round = step - plan.first_round if second_round else step
        if step_of_round < (plan.drawn_steps if second_round else plan.steps):
            pictures = plan.drawn_pictures if second_round else plan.pictures
            return {
                "masked": _loss(parts, talk, arms.masked_rows(features, ask, talk, rng, pictures, plan.shown))
            }
        whole = arms.whole_rows(features, ask, talk, rng, plan.full_pictures)
        reduced = arms.reduced_rows(features, ask, talk, rng, plan.reduced_rows)
        return {"whole": _loss(parts, talk, whole), "reduced": _loss(parts, talk, reduced)}

    train(
        inputs.folder / "language",
        parts,
        Schedule(
            plan.first_round + plan.drawn_steps + plan.drawn_mixed_steps,
            plan.learning_rate,
            plan.matrix_learning_rate,
            restart=plan.first_round,
        ),
        losses,
        weights={"masked": 1.0, "whole": 0.5, "reduced": 0.5},
        validate=partial(probe_language, parts, val_features, talk, recipe.probed_pictures),
        validate_every=recipe.validate_every,
        say=say,
    )
    return parts.eval()


def _precision(device: torch.device) -> torch.autocast:
    """Use bfloat16 on a GPU; on a CPU layers this narrow are no faster in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def _loss(parts: language.Parts, talk: Conversation, rows: list[language.Row]) -> Tensor:
    """Average the loss over a batch's turns, a few rows of similar length at a time."""
    rows = sorted(rows, key=lambda row: len(row.tokens_KD))
    total, weight = torch.zeros(()), 0
    for first in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows[first : first + ROWS_AT_ONCE]
        turns = [turn for row in batch for turn in row.turns]
        device = parts.language.device
        with _precision(device):
            loss_A, _, turn_A = language.answer_losses(parts, language.pack_rows(talk.prefix, batch))
        total = total.to(device) + language.mean_loss(loss_A, turn_A, turns) * len(turns)
        weight += len(turns)
    return total / weight
