"""Samples the batches of stage (a): pictures, texts about them, and which patches show what.

Legend: B pictures, T texts, O objects, N patches of a picture, F values of a patch, C cells of a patch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.demo.ask import SceneQuestion
from pipeline.demo.scene import COLORS, HELD_OUT, RADII, SHAPES, SIZES, TEXTURES, phrase_of
from pipeline.models.demo.tokenizers import PATCH_PX
from pipeline.train_demo.corpus import COVERED, GRID, Corpus

TEXTS_A_PICTURE = 5  # besides its caption
SUFFIX = "\nAnswer the question using a single word or phrase."
SUFFIX_SHARE = 0.15
BACKGROUND, HIT, OTHER, UNSURE = 0, 1, 2, 3
# Color, shape, size and texture of all things that training shows, and their phrases.
KINDS = [
    (color, shape, size, texture)
    for color, shape, size, texture in product(COLORS, SHAPES, SIZES, TEXTURES)
    if (color, shape) not in HELD_OUT
]
PHRASES = [f"a {phrase_of(*kind)}" for kind in KINDS]


@dataclass(frozen=True)
class TowerBatch:
    """Holds the pictures and texts of one step.

    `relevant_TN` labels each patch for a text: HIT (it shows what the text is about), BACKGROUND, OTHER
    (another thing) or UNSURE (an edge). `things_ON` weights each object's patches.
    """

    patches_BNF: Tensor  # uint8
    captions: list[str]
    texts: list[str]
    picture_T: Tensor  # int64, of each text
    relevant_TN: Tensor  # int8
    kind_O: Tensor  # int64, of each object, its place in KINDS
    picture_O: Tensor  # int64, of each object
    place_ON3: Tensor  # float32, see `places_of`
    things_ON: Tensor  # float32, rows that add up to 1
    outlines_BNC: Tensor  # float32, how much of each cell of a patch is covered by things

    def to(self, device: torch.device) -> "TowerBatch":
        """Copy the batch to a device."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {  # `replace` takes no dict of tensors
            name: value.to(device) for name, value in tensors.items()
        }
        return replace(self, **moved)


def sample_batch(corpus: Corpus, rng: np.random.Generator, pictures: int) -> TowerBatch:
    """Draw a random batch."""
    patches, relevant, captions, texts, picture = [], [], [], [], []
    kinds, picture_of, things, places, outlines = [], [], [], [], []
    for number, index in enumerate(rng.choice(len(corpus), pictures, replace=False)):
        truth, coverage = corpus.truths[index], corpus.coverage(int(index))
        patches.append(corpus.pixels[index])
        outlines.append(corpus.outlines(int(index)))
        captions.append(truth.caption)
        for thing, covered in zip(truth.scene.things, coverage, strict=True):
            kinds.append(KINDS.index((thing.color, thing.shape, thing.size, thing.texture)))
            picture_of.append(number)
            things.append(covered / covered.sum())
            places.append(places_of(thing.x, thing.y, thing.radius))
        questions = [truth.caption_question, *truth.questions, *truth.phrases]
        for choice in rng.choice(len(questions), min(TEXTS_A_PICTURE, len(questions)), replace=False):
            texts.append(_text(questions[choice], rng))
            relevant.append(_relevant(coverage, questions[choice]))
            picture.append(number)
    return TowerBatch(
        torch.from_numpy(np.stack(patches)),
        captions,
        texts,
        torch.tensor(picture),
        torch.from_numpy(np.stack(relevant)),
        torch.tensor(kinds),
        torch.tensor(picture_of),
        torch.from_numpy(np.stack(places)),
        torch.from_numpy(np.stack(things)),
        torch.from_numpy(np.stack(outlines)),
    )


def places_of(x: float, y: float, radius: float) -> NDArray[np.float32]:
    """Compute x and y from each patch to an object's middle, and its radius, in largest radii: [N, 3]."""
    largest = RADII["large"][1]
    middles = (np.arange(GRID) + 0.5) * PATCH_PX
    down, right = np.meshgrid((y - middles) / largest, (x - middles) / largest, indexing="ij")
    return np.stack([right, down, np.full_like(down, radius / largest)], -1).reshape(-1, 3).astype(np.float32)


def _relevant(coverage: NDArray[np.float32], question: SceneQuestion) -> NDArray[np.int8]:
    """Label the patches for one question: [N]."""
    about = np.isin(np.arange(len(coverage)), question.about)[:, None]
    hit, other = (coverage * about).max(0), (coverage * ~about).max(0)
    others = np.where(other >= COVERED, OTHER, np.where(np.maximum(hit, other) > 0, UNSURE, BACKGROUND))
    return np.where(hit >= COVERED, HIT, others).astype(np.int8)


def _text(question: SceneQuestion, rng: np.random.Generator) -> str:
    """Return the question, sometimes with the suffix for short answers."""
    with_suffix = question.answers and rng.random() < SUFFIX_SHARE
    return question.question + SUFFIX if with_suffix else question.question


def tower_corpus_texts(corpus: Corpus) -> Iterator[str]:
    """Yield every text of a corpus, to train tokenizers on."""
    for truth in corpus.truths:
        yield truth.caption
        for question in (truth.caption_question, *truth.questions, *truth.phrases):
            yield " ".join([question.question, *question.answers])
