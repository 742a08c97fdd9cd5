"""Scenes rendered once and kept as the patches that a vision tower reads, in files mapped into memory.

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
from PIL import Image

from pipeline.demo.ask import Asked, caption_of, phrases
from pipeline.demo.draw import silhouette
from pipeline.demo.scene import SIDE, Scene
from pipeline.demo.scenes import CAPTION_PROMPT, SPLITS, make_sample
from pipeline.models.preprocess import resize_and_crop

PATCH_PX = 14
GRID = SIDE // PATCH_PX
CHUNK = 500
CELLS = 7  # a side of a patch, where outlines are told
COVERED = 0.15  # of a patch's area, by a thing's disc: from here on the patch shows the thing


@dataclass(frozen=True)
class Truth:
    """One picture's ground truth. `asked` are the questions with answers, `texts` phrases without."""

    scene: Scene
    caption: str
    asked: tuple[Asked, ...]
    texts: tuple[Asked, ...]

    @property
    def describe(self) -> Asked:
        """The caption as a question like the others."""
        return Asked("caption", CAPTION_PROMPT, (self.caption,), tuple(range(len(self.scene.things))))


@dataclass(frozen=True)
class Corpus:
    """`pixels[i]`: uint8 [N, F]; `truths[i]`; `coverage(i)`: how much of each patch each thing covers."""

    pixels: Sequence[np.ndarray]
    truths: Sequence[Truth]

    def __len__(self) -> int:
        return len(self.truths)

    def coverage(self, index: int) -> np.ndarray:
        """float32 [things, N]: the share of the patch that lies in the thing's disc."""
        return np.stack([_disc(thing.x, thing.y, thing.radius) for thing in self.truths[index].scene.things])

    def outlines(self, index: int) -> np.ndarray:
        """What of each patch is covered by things: float32 [N, CELLS * CELLS], row by row."""
        cells = silhouette(self.truths[index].scene, GRID * CELLS)
        return cells.reshape(GRID, CELLS, GRID, CELLS).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)


def open_corpus(folder: Path, split: str, seed: int, count: int) -> Corpus:
    """The first `count` samples of a split; chunks that are missing are rendered on all cores."""
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


def patchify(square: np.ndarray) -> np.ndarray:
    """uint8 [S, S, 3] -> [N, F], each patch with its channels first."""
    patches = square.reshape(GRID, PATCH_PX, GRID, PATCH_PX, 3).transpose(0, 2, 4, 1, 3)
    return np.ascontiguousarray(patches.reshape(GRID * GRID, -1))


def unpatchify(patches: np.ndarray) -> np.ndarray:
    """uint8 [N, F] -> [S, S, 3], the inverse of `patchify`."""
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
            Truth(sample.scene, caption_of(sample.scene), sample.asked, tuple(phrases(sample.scene, rng)))
        )
    np.save(_file(folder, split, seed, chunk, "npy"), pixels)
    _file(folder, split, seed, chunk, "pkl").write_bytes(
        pickle.dumps(truths)
    )  # last: its presence is the mark


def _file(folder: Path, split: str, seed: int, chunk: int, suffix: str) -> Path:
    return folder / f"{split}-{seed}-{chunk:04d}.{suffix}"


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    """The share of each patch that lies in a disc, from 7 x 7 points a patch: float32 [N]."""
    points = np.arange(PATCH_PX / 14, SIDE, PATCH_PX / 7)
    inside = (points[None, :] - x) ** 2 + (points[:, None] - y) ** 2 <= radius**2
    return inside.reshape(GRID, 7, GRID, 7).mean((1, 3), dtype=np.float32).ravel()
