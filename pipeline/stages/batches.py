"""Prepares batches for the vision tower on the host: pixels, tokens of texts, and numbers of requests.

Legend: B images, R requests, S pixels a side, L tokens of a text.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
from torch import Tensor

from pipeline.models.towers import TextTokens, Towers
from pipeline.stages.clip_text import ClipText
from pipeline.stages.rows import Fields


@dataclass(frozen=True)
class OpenRequest:
    """Holds a request without an answer yet: its fields so far, and its image's index in the unit."""

    fields: Fields
    image: int


@dataclass(frozen=True)
class HostBatch:
    """Holds what the host knows of some images and the requests about them.

    Attributes:
        images: the images' indices in the unit.
        requests: about them, and `image_of_request`, the index of each request's image within the batch.
        tokens: of the texts that CLIP reads, by setting, one text for each request.
        pixels_BSSC: uint8.
        identities_R: int64, what the reducer `Random` seeds with; empty if no arm reads it.
    """

    images: list[int]
    requests: list[OpenRequest]
    image_of_request: list[int]
    tokens: dict[ClipText, TextTokens]
    pixels_BSSC: np.ndarray
    identities_R: np.ndarray

    def arrays(self) -> list[np.ndarray]:
        """List the arrays that the device needs, in the order in which `on_device` expects them."""
        texts = [padded for tokens in self.tokens.values() for padded in tokens.padded]
        return [self.pixels_BSSC, np.array(self.image_of_request, np.int64), self.identities_R, *texts]

    def on_device(self, tensors: Sequence[Tensor]) -> "DeviceBatch":
        """Sort the tensors made of `arrays()`."""
        pixels_BSSC, image_R, identity_R, *texts = tensors
        padded = {}
        for setting, tokens in self.tokens.items():
            padded[setting], texts = texts[: len(tokens.padded)], texts[len(tokens.padded) :]
        return DeviceBatch(self, pixels_BSSC, image_R, identity_R, padded)


@dataclass(frozen=True)
class DeviceBatch:
    """Holds a batch with its arrays on the device."""

    host: HostBatch
    pixels_BSSC: Tensor
    image_R: Tensor
    identity_R: Tensor
    padded: dict[ClipText, list[Tensor]]


class Preparer:
    """Prepares the batches of one unit.

    Args:
        images: the unit's IMAGES.
        requests: those that can be answered, in the order of their images.
        side: S.
        encoder: whose tokenizer is used, by this thread alone.
        texts: the settings that are read, each with a function from a question to its text.
        identities: whether a reducer reads them.
    """

    def __init__(
        self,
        images: pa.Table,
        requests: list[OpenRequest],
        *,
        side: int,
        encoder: Towers,
        texts: dict[ClipText, Callable[[str], str]],
        identities: bool,
    ) -> None:
        self._pixels = _views(images["pixels"], (side, side, 3))
        self._encoder, self._texts, self._identities = encoder, texts, identities
        self._requests: dict[int, list[OpenRequest]] = {}
        for request in requests:
            self._requests.setdefault(request.image, []).append(request)

    @property
    def images(self) -> list[int]:
        """List the images with requests that can be answered."""
        return sorted(self._requests)

    def prepare(self, images: list[int]) -> HostBatch:
        """Prepare the batch of these images."""
        requests = [request for image in images for request in self._requests[image]]
        tokens = {
            setting: self._encoder.tokenize_texts(
                [text_of(request.fields["question"]) for request in requests],
                windows=setting.long == "windows",
            )
            for setting, text_of in self._texts.items()
        }
        hashes = [
            identity_of(request.fields["image_sha256"], request.fields["question"])
            for request in (requests if self._identities else ())
        ]
        return HostBatch(
            images,
            requests,
            [place for place, image in enumerate(images) for _ in self._requests[image]],
            tokens,
            _joined([self._pixels[image] for image in images]),
            np.array(hashes, np.int64),
        )


def identity_of(image_sha256: str, question: str) -> int:
    """Hash an image and its question to 63 bits, with which the reducer `Random` seeds its choice."""
    digest = hashlib.sha256(f"{image_sha256}\n{question}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _views(column: pa.ChunkedArray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Make an array of each cell's bytes, without copying them; an empty one of a cell without any."""
    views = []
    for chunk in column.chunks:
        if not len(chunk):
            continue
        _, offsets, data = chunk.buffers()
        ends = np.frombuffer(offsets, np.int64)[chunk.offset : chunk.offset + len(chunk) + 1]
        whole = np.frombuffer(b"" if data is None else data, np.uint8)
        for first, stop in pairwise(ends.tolist()):
            views.append(whole[first:stop].reshape(shape if stop > first else (0,)))
    return views


def _joined(views: list[np.ndarray]) -> np.ndarray:
    """Stack arrays of one shape; neighbours in memory are not copied."""
    first = views[0]
    starts = [view.ctypes.data for view in views]
    neighbours = all(b - a == first.nbytes for a, b in pairwise(starts))
    if neighbours and all(view.base is first.base for view in views):
        return np.lib.stride_tricks.as_strided(
            first, (len(views), *first.shape), (first.nbytes, *first.strides), writeable=False
        )
    return np.stack(views)
