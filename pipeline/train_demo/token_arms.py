"""Chooses the visual tokens that the language model is trained on.

The mixture gives no arm of a comparison an advantage: all tokens and reduced ones alternate, and reduced
means TRIM with either sign or a random number of tokens, or a random choice of a random number. Early steps
show the patches of the objects and some others: short sequences, which teach the same at a third of the cost.

Legend: N patches, D vision width, P joint width, K tokens kept.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.demo.ask import SceneQuestion, ask_more
from pipeline.models.clip import IMAGE_FIELDS, ClipEncoder
from pipeline.models.preprocess import Preprocessor
from pipeline.train_demo.corpus import GRID, Corpus, unpatchify
from pipeline.train_demo.language import Row
from pipeline.train_demo.tower_batch import SUFFIX, SUFFIX_SHARE
from pipeline.train_demo.turns import Conversation, Turn
from trim import PruMerge, Random, Reducer, Trim, VisionZip, VisualTokens

PICTURES_AT_ONCE = 32
OFTEN = {
    "position": 2,
    "relation": 6,
    "count": 3,
    "existence": 3,
}  # the kinds that the first round leaves weakest
FEWEST, MOST = 8, 400  # tokens of the random arm, drawn log-uniformly


@dataclass(frozen=True)
class Features:
    """Holds a frozen tower's output for a corpus.

    `fields` are those of VisualTokens by name, one row a picture, in float16 or float32; `texts` are the
    embeddings of the questions.
    """

    fields: dict[str, Tensor]
    corpus: Corpus
    texts: dict[str, Tensor]
    encoder: ClipEncoder

    @property
    def patches(self) -> Tensor:
        return self.fields["patches"]

    def learn(self, texts: Collection[str]) -> None:
        """Add the embeddings of those texts that `texts` lacks."""
        new = sorted(set(texts) - self.texts.keys())
        if new:
            self.texts.update(zip(new, self.encoder.encode_texts(new).cpu(), strict=True))


# Returns the questions about picture `index`.
Ask = Callable[[int], Sequence[SceneQuestion]]


def rendered_questions(features: Features) -> Ask:
    """Ask for the caption, and the questions that were rendered with each picture."""
    return lambda index: _questions(features, index)


def new_questions(features: Features, rng: np.random.Generator) -> Ask:
    """Ask for the caption, and new questions, several of each kind in OFTEN."""

    def ask(index: int) -> Sequence[SceneQuestion]:
        truth = features.corpus.truths[index]
        return (truth.caption_question, *ask_more(truth.scene, rng, OFTEN))

    return ask


def encode(clip: Path, feature_layer: int, corpus: Corpus, device: torch.device) -> Features:
    """Run a written CLIP over a corpus as a run would, and over its questions with and without suffix."""
    needs = IMAGE_FIELDS - {"metric"}  # it would double the memory, and is quickly computed from the patches
    encoder = ClipEncoder(
        clip,
        clip,
        feature_layer=feature_layer,
        normalization=Preprocessor(clip).normalization,
        needs=IMAGE_FIELDS | {"text"},
        device=device,
    )
    fields: dict[str, Tensor] = {}
    for first in range(0, len(corpus), PICTURES_AT_ONCE):
        squares = [unpatchify(pixels) for pixels in corpus.pixels[first : first + PICTURES_AT_ONCE]]
        encoded = encoder.encode_images(torch.from_numpy(np.stack(squares)), needs)
        for name, values in encoded.items():
            if name not in fields:
                dtype = torch.float32 if values.ndim == 2 else torch.float16
                fields[name] = torch.empty(len(corpus), *values.shape[1:], dtype=dtype)
            fields[name][first : first + len(values)] = values
    questions = {a.question for truth in corpus.truths for a in (truth.caption_question, *truth.questions)}
    all_texts = sorted(questions | {question + SUFFIX for question in questions})
    texts = dict(zip(all_texts, encoder.encode_texts(all_texts).cpu(), strict=True))
    return Features(fields, corpus, texts, encoder)


def whole_rows(
    features: Features, ask: Ask, talk: Conversation, rng: np.random.Generator, pictures: int
) -> list[Row]:
    """Make rows of all tokens of some pictures, with all questions about them."""
    chosen = rng.choice(len(features.corpus), pictures, replace=False)
    return [Row(features.patches[index], _turns(ask(int(index)), talk, rng)) for index in chosen]


def masked_rows(
    features: Features, ask: Ask, talk: Conversation, rng: np.random.Generator, pictures: int, shown: int
) -> list[Row]:
    """Make rows of `shown` patches of some pictures, with all questions about them."""
    rows = []
    for index in rng.choice(len(features.corpus), pictures, replace=False):
        patches = shown_patches(features.corpus.coverage(int(index)), shown, rng)
        rows.append(Row(features.patches[index][patches], _turns(ask(int(index)), talk, rng)))
    return rows


def shown_patches(coverage: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Choose `count` patches: first those with things, then their neighbours, then random ones; sorted."""
    things = (coverage.max(0) > 0).reshape(GRID, GRID)
    padded = np.pad(things, 1)
    near = np.zeros_like(things)
    for down, right in product(range(3), range(3)):
        near |= padded[down : down + GRID, right : right + GRID]
    priority = rng.random(things.size) - things.ravel() - near.ravel()
    return np.sort(np.argpartition(priority, count)[:count])


def reduced_rows(
    features: Features, ask: Ask, talk: Conversation, rng: np.random.Generator, count: int
) -> list[Row]:
    """Make rows of one question each, with the tokens that a random arm keeps for it."""
    chosen = []
    for index in map(int, rng.integers(len(features.corpus), size=count)):
        questions = ask(index)
        item = questions[int(rng.integers(len(questions)))]
        chosen.append((index, item, _suffix(item, rng)))
    features.learn([item.question + suffix for _, item, suffix in chosen])
    rows = []
    for index, item, suffix in chosen:
        tokens = reduce(features, index, item.question + suffix, _arm(rng), int(rng.integers(2**62)))
        rows.append(Row(tokens, (talk.turn(item, suffix),)))
    return rows


@torch.inference_mode()
def reduce(
    features: Features, index: int, text: str, reducer: Reducer, identity: int, budget: int | None = None
) -> Tensor:
    """Reduce one picture's tokens for one text; returns [K, D]."""
    fields = {name: features.fields[name][index][None] for name in reducer.needs if name in features.fields}
    if "metric" in reducer.needs:
        fields["metric"] = features.encoder.metric(features.patches[index][None])
    return reducer(
        VisualTokens(
            **{"patches": features.patches[index][None], **fields},
            text=features.texts[text][None],
            identity=torch.tensor([identity]),
            budget=None if budget is None else torch.tensor([budget]),
        )
    )[0].tokens


def _arm(rng: np.random.Generator) -> Reducer:
    """Draw a reducer: TRIM half of the time, else random, or one that merges tokens.

    DivPrune and CDPruner are not drawn: they merge nothing, so their tokens look like those of `random`.
    """
    number = round(float(np.exp(rng.uniform(np.log(FEWEST), np.log(MOST)))))
    draw = rng.random()
    if draw < 0.5:
        return Trim(sign=1) if draw < 0.3 else Trim(sign=-1)
    if draw < 0.6:
        return Trim(sign=1, num_kept=number)
    if draw < 0.8:
        return Random(num_kept=number)
    if draw < 0.9:
        return PruMerge(plus=draw < 0.85)
    dominant = max(2, round(0.84 * number))  # of 64, 54 in its paper
    return VisionZip(dominant=dominant, contextual=max(1, number - dominant))


def _questions(features: Features, index: int) -> Sequence[SceneQuestion]:
    truth = features.corpus.truths[index]
    return (truth.caption_question, *truth.questions)


def _turns(
    questions: Sequence[SceneQuestion], talk: Conversation, rng: np.random.Generator
) -> tuple[Turn, ...]:
    return tuple(talk.turn(item, _suffix(item, rng)) for item in questions)


def _suffix(item: SceneQuestion, rng: np.random.Generator) -> str:
    return SUFFIX if item.kind != "caption" and rng.random() < SUFFIX_SHARE else ""
