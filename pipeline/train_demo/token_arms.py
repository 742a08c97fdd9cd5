"""Which visual tokens the language model is shown while it learns.

The mixture gives no arm of a comparison an advantage: all tokens and reduced ones take turns, and reduced
means TRIM under either sign or of a random size, or a random choice of a random size. Early on, pictures are
shown by their objects' patches and some others: short sequences, which teach the same at a third of the cost.

Legend: N patches, D vision width, P joint width, K tokens kept.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.demo.ask import Asked, ask_more
from pipeline.models.clip import IMAGE_FIELDS, ClipEncoder
from pipeline.models.preprocess import Preprocessor
from pipeline.train_demo.corpus import GRID, Corpus, unpatchify
from pipeline.train_demo.language import Row
from pipeline.train_demo.tower_batch import SUFFIX, SUFFIX_SHARE
from pipeline.train_demo.turns import Conversation, Turn
from trim import PruMerge, Random, Reducer, Trim, VisionZip, VisualTokens

PICTURES_AT_ONCE = 32
OFTEN = {"position": 2, "relation": 6, "count": 3, "existence": 3}  # what the first round leaves weakest
FEWEST, MOST = 8, 400  # tokens of the random arm, log-uniformly


@dataclass(frozen=True)
class Features:
    """A frozen tower's output for a corpus.

    `fields` are those of VisualTokens by name, a row a picture, in float16 or float32; `texts` has the
    embedding of each question.
    """

    fields: dict[str, Tensor]
    corpus: Corpus
    texts: dict[str, Tensor]
    encoder: ClipEncoder

    @property
    def patches(self) -> Tensor:
        return self.fields["patches"]

    def learn(self, texts: Collection[str]) -> None:
        """Encode those of some texts that `texts` does not have."""
        new = sorted(set(texts) - self.texts.keys())
        if new:
            self.texts.update(zip(new, self.encoder.encode_texts(new).cpu(), strict=True))


# What is asked of picture `index`.
Ask = Callable[[int], Sequence[Asked]]


def asked_once(features: Features) -> Ask:
    """The caption and the questions that came with each picture."""
    return lambda index: _questions(features, index)


def asked_anew(features: Features, rng: np.random.Generator) -> Ask:
    """The caption and questions drawn anew, of the kinds that need several things more than one."""

    def ask(index: int) -> Sequence[Asked]:
        truth = features.corpus.truths[index]
        return (truth.describe, *ask_more(truth.scene, rng, OFTEN))

    return ask


def encode(clip: Path, feature_layer: int, corpus: Corpus, device: torch.device) -> Features:
    """Run an exported CLIP over a corpus as a run would, and over its questions with and without suffix."""
    needs = IMAGE_FIELDS - {"metric"}  # half of all bytes, and made of the patches in no time
    encoder = ClipEncoder(
        clip,
        feature_layer=feature_layer,
        normalization=Preprocessor(clip).normalization,
        needs=needs | {"text"},
        device=device,
    )
    fields: dict[str, Tensor] = {}
    for first in range(0, len(corpus), PICTURES_AT_ONCE):
        squares = [unpatchify(pixels) for pixels in corpus.pixels[first : first + PICTURES_AT_ONCE]]
        found = encoder.encode_images(torch.from_numpy(np.stack(squares)), needs)
        for name, values in found.items():
            if name not in fields:
                dtype = torch.float32 if values.ndim == 2 else torch.float16
                fields[name] = torch.empty(len(corpus), *values.shape[1:], dtype=dtype)
            fields[name][first : first + len(values)] = values
    questions = {a.question for truth in corpus.truths for a in (truth.describe, *truth.asked)}
    wanted = sorted(questions | {question + SUFFIX for question in questions})
    texts = dict(zip(wanted, encoder.encode_texts(wanted).cpu(), strict=True))
    return Features(fields, corpus, texts, encoder)


def whole_rows(
    features: Features, ask: Ask, talk: Conversation, rng: np.random.Generator, pictures: int
) -> list[Row]:
    """Pictures with all their tokens and all that is asked of them."""
    chosen = rng.choice(len(features.corpus), pictures, replace=False)
    return [Row(features.patches[index], _turns(ask(int(index)), talk, rng)) for index in chosen]


def masked_rows(
    features: Features, ask: Ask, talk: Conversation, rng: np.random.Generator, pictures: int, shown: int
) -> list[Row]:
    """Pictures by `shown` patches, those around their objects among them, with all that is asked of them."""
    rows = []
    for index in rng.choice(len(features.corpus), pictures, replace=False):
        at = shown_patches(features.corpus.coverage(int(index)), shown, rng)
        rows.append(Row(features.patches[index][at], _turns(ask(int(index)), talk, rng)))
    return rows


def shown_patches(coverage: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` patches in order: those with things, then those beside such, then others by lot."""
    things = (coverage.max(0) > 0).reshape(GRID, GRID)
    padded = np.pad(things, 1)
    near = np.zeros_like(things)
    for down, right in product(range(3), range(3)):
        near |= padded[down : down + GRID, right : right + GRID]
    lots = rng.random(things.size) - things.ravel() - near.ravel()
    return np.sort(np.argpartition(lots, count)[:count])


def reduced_rows(
    features: Features, ask: Ask, talk: Conversation, rng: np.random.Generator, count: int
) -> list[Row]:
    """One question each, with the tokens that an arm by lot keeps for it."""
    chosen = []
    for index in map(int, rng.integers(len(features.corpus), size=count)):
        asked = ask(index)
        item = asked[int(rng.integers(len(asked)))]
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
    """The tokens [K, D] that a reducer keeps of one picture for one text."""
    given = {name: features.fields[name][index][None] for name in reducer.needs if name in features.fields}
    if "metric" in reducer.needs:
        given["metric"] = features.encoder.metric(features.patches[index][None])
    return reducer(
        VisualTokens(
            **{"patches": features.patches[index][None], **given},
            text=features.texts[text][None],
            identity=torch.tensor([identity]),
            budget=None if budget is None else torch.tensor([budget]),
        )
    )[0].tokens


def _arm(rng: np.random.Generator) -> Reducer:
    """TRIM by either sign half of the time, then chance, then what merges tokens.

    DivPrune and CDPruner choose and merge nothing: what `random` shows is like what they would.
    """
    number = round(float(np.exp(rng.uniform(np.log(FEWEST), np.log(MOST)))))
    lot = rng.random()
    if lot < 0.5:
        return Trim(sign=1) if lot < 0.3 else Trim(sign=-1)
    if lot < 0.6:
        return Trim(sign=1, num_kept=number)
    if lot < 0.8:
        return Random(num_kept=number)
    if lot < 0.9:
        return PruMerge(plus=lot < 0.85)
    dominant = max(2, round(0.84 * number))  # of 64, 54 in its paper
    return VisionZip(dominant=dominant, contextual=max(1, number - dominant))


def _questions(features: Features, index: int) -> Sequence[Asked]:
    truth = features.corpus.truths[index]
    return (truth.describe, *truth.asked)


def _turns(asked: Sequence[Asked], talk: Conversation, rng: np.random.Generator) -> tuple[Turn, ...]:
    return tuple(talk.turn(item, _suffix(item, rng)) for item in asked)


def _suffix(item: Asked, rng: np.random.Generator) -> str:
    return SUFFIX if item.kind != "caption" and rng.random() < SUFFIX_SHARE else ""
