"""Renders scenes once and caches them as the patches that a vision tower reads, in memory-mapped files.

Legend: N patches of a picture, F values of a patch (3 x 14 x 14, as the tower's convolution reads them).
"""

import os
import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.demo.ask import SceneQuestion, caption_of, phrases
from pipeline.demo.draw import silhouette
from pipeline.demo.scene import SIDE, Scene
from pipeline.demo.scenes import CAPTION_PROMPT, SPLITS, make_sample
from pipeline.models.preprocess import resize_and_crop

PATCH_PX = 14
GRID = SIDE // PATCH_PX
CHUNK = 500
CELLS = 7  # of a patch's side, in outlines
COVERED = 0.15  # a patch shows a thing whose disc covers at least this part of its area


@dataclass(frozen=True)
class Truth:
    """Holds one picture's ground truth: questions with answers, and phrases without."""

    scene: Scene
    caption: str
    questions: tuple[SceneQuestion, ...]
    phrases: tuple[SceneQuestion, ...]

    @property
    def caption_question(self) -> SceneQuestion:
        """The caption as a question like the others."""
        return SceneQuestion("caption", CAPTION_PROMPT, (self.caption,), tuple(range(len(self.scene.things))))


@dataclass(frozen=True)
class Corpus:
    """Holds pictures, uint8 [N, F] each, and their ground truth."""

    pixels: Sequence[NDArray[np.uint8]]
    truths: Sequence[Truth]

    def __len__(self) -> int:
        return len(self.truths)

    def coverage(self, index: int) -> NDArray[np.float32]:
        """Compute the share of each patch that lies in each thing's disc: [things, N]."""
        return np.stack([_disc(thing.x, thing.y, thing.radius) for thing in self.truths[index].scene.things])

    def outlines(self, index: int) -> NDArray[np.float32]:
        """Compute how much of each cell of each patch things cover: [N, CELLS * CELLS], row by row."""
        cells = silhouette(self.truths[index].scene, GRID * CELLS)
        return cells.reshape(GRID, CELLS, GRID, CELLS).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)


def open_corpus(folder: Path, split: str, seed: int, count: int) -> Corpus:
    """Open the first `count` samples of a split; missing chunks are rendered on all cores."""
    folder.mkdir(parents=True, exist_ok=True)
    chunks = range(-(-count // CHUNK))
    missing = [chunk for chunk in chunks if not _file(folder, split, seed, chunk, "pkl").exists()]
    if missing:
        # Not forked: a fork of a process with torch's threads may hang.
        with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(_render, folder, split, seed), missing))
    pixels, truths = [], []
    for chunk in chunks:
        pixels += list(np.load(_file(folder, split, seed, chunk, "npy"), mmap_mode="r"))
        truths += pickle.loads(_file(folder, split, seed, chunk, "pkl").read_bytes())
    return Corpus(pixels[:count], truths[:count])


def patchify(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Cut a picture [S, S, 3] into patches [N, F], each with its channels first."""
    patches = square.reshape(GRID, PATCH_PX, GRID, PATCH_PX, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(patches.reshape(GRID * GRID, -1))


def unpatchify(patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Join patches [N, F] into a picture [S, S, 3]: the inverse of `patchify`."""
    square = patches.reshape(GRID, GRID, 3, PATCH_PX, PATCH_PX).transpose(0, 3, 1, 4, 2)
    return np.ascontiguousarray(square.reshape(SIDE, SIDE, 3))


def _render(folder: Path, split: str, seed: int, chunk: int) -> None:
    pixels = np.empty((CHUNK, GRID * GRID, 3 * PATCH_PX**2), np.uint8)
    truths = []
    for place in range(CHUNK):
        index = chunk * CHUNK + place
        sample = make_sample(split, seed, index)
        with Image.open(BytesIO(sample.jpeg())) as image:  # as a run would read it
            pixels[place] = patchify(np.asarray(resize_and_crop(image, SIDE, Image.Resampling.BICUBIC)))
        rng = np.random.default_rng([SPLITS[split], seed, index, 1])
        truths.append(
            Truth(sample.scene, caption_of(sample.scene), sample.questions, tuple(phrases(sample.scene, rng)))
        )
    np.save(_file(folder, split, seed, chunk, "npy"), pixels)
    # written last: the chunk is complete once this file exists
    _file(folder, split, seed, chunk, "pkl").write_bytes(pickle.dumps(truths))


def _file(folder: Path, split: str, seed: int, chunk: int, suffix: str) -> Path:
    return folder / f"{split}-{seed}-{chunk:04d}.{suffix}"


def _disc(x: float, y: float, radius: float) -> NDArray[np.float32]:
    """Compute the share of each patch that lies in a disc, from 7 x 7 points a patch: [N]."""
    points = np.arange(PATCH_PX / 14, SIDE, PATCH_PX / 7)
    inside = (points[None, :] - x) ** 2 + (points[:, None] - y) ** 2 <= radius**2
    share: NDArray[np.float32] = inside.reshape(GRID, 7, GRID, 7).mean((1, 3), dtype=np.float32).ravel()
    return share
