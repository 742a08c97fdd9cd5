"""What a step of stage (a) sees: pictures, texts about them, and which patches show what.

Legend: B pictures, T texts, O objects, N patches of a picture, F values of a patch, C cells of a patch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.demo.ask import Asked
from pipeline.demo.scene import COLORS, HELD_OUT, RADII, SHAPES, SIZES, TEXTURES, phrase_of
from pipeline.models.demo.tokenizers import PATCH_PX
from pipeline.train_demo.corpus import COVERED, GRID, Corpus

TEXTS_A_PICTURE = 5  # besides its caption
SUFFIX = "\nAnswer the question using a single word or phrase."
SUFFIX_SHARE = 0.15
BACKGROUND, HIT, OTHER, UNSURE = 0, 1, 2, 3
# Color, shape, size and texture of everything that is ever shown in training, and how it is called.
KINDS = [
    (color, shape, size, texture)
    for color, shape, size, texture in product(COLORS, SHAPES, SIZES, TEXTURES)
    if (color, shape) not in HELD_OUT
]
PHRASES = [f"a {phrase_of(*kind)}" for kind in KINDS]


@dataclass(frozen=True)
class TowerBatch:
    """What one step sees.

    `relevant_TN` says of each patch whether it shows what a text is about: HIT, BACKGROUND, OTHER (a thing
    that the text is not about) or UNSURE (an edge). `things_ON` has each object's patches, weighted.
    """

    patches_BNF: Tensor  # uint8
    captions: list[str]
    texts: list[str]
    picture_T: Tensor  # int64, of each text
    relevant_TN: Tensor  # int8
    kind_O: Tensor  # int64, of each object, its place in KINDS
    picture_O: Tensor  # int64, of each object
    place_ON3: Tensor  # float32, what `places_of` gives
    things_ON: Tensor  # float32, rows that add up to 1
    outlines_BNC: Tensor  # float32, how much of each cell of a patch is covered by things

    def to(self, device: torch.device) -> "TowerBatch":
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved: dict[str, Any] = {name: value.to(device) for name, value in tensors.items()}
        return replace(self, **moved)


def sample_batch(corpus: Corpus, rng: np.random.Generator, pictures: int) -> TowerBatch:
    """A batch by lot."""
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
        asked = [truth.describe, *truth.asked, *truth.texts]
        for choice in rng.choice(len(asked), min(TEXTS_A_PICTURE, len(asked)), replace=False):
            texts.append(_as_asked(asked[choice], rng))
            relevant.append(_relevant(coverage, asked[choice]))
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


def places_of(x: float, y: float, radius: float) -> np.ndarray:
    """How far each patch is from an object's middle, and its radius, in its largest radius: [N, 3]."""
    largest = RADII["large"][1]
    middles = (np.arange(GRID) + 0.5) * PATCH_PX
    down, right = np.meshgrid((y - middles) / largest, (x - middles) / largest, indexing="ij")
    return np.stack([right, down, np.full_like(down, radius / largest)], -1).reshape(-1, 3).astype(np.float32)


def _relevant(coverage: np.ndarray, asked: Asked) -> np.ndarray:
    about = np.isin(np.arange(len(coverage)), asked.about)[:, None]
    hit, other = (coverage * about).max(0), (coverage * ~about).max(0)
    found = np.where(other >= COVERED, OTHER, np.where(np.maximum(hit, other) > 0, UNSURE, BACKGROUND))
    return np.where(hit >= COVERED, HIT, found).astype(np.int8)


def _as_asked(asked: Asked, rng: np.random.Generator) -> str:
    with_suffix = asked.answers and rng.random() < SUFFIX_SHARE
    return asked.question + SUFFIX if with_suffix else asked.question


def tower_corpus_texts(corpus: Corpus) -> Iterator[str]:
    """Every text of a corpus: what tokenizers are trained on."""
    for truth in corpus.truths:
        yield truth.caption
        for asked in (truth.describe, *truth.asked, *truth.texts):
            yield " ".join([asked.question, *asked.answers])
