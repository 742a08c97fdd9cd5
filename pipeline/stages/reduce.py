"""Applies an arm's reducer to a batch of encoded images and the requests about them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import torch

from pipeline.models.devices import synchronized_time, to_bytes
from pipeline.stages.arms import Arm
from pipeline.stages.clip_text import ClipText
from pipeline.stages.rows import Fields
from trim import Reduced, VisualTokens


@dataclass(frozen=True)
class OpenRequest:
    """Holds a request without an answer yet: its fields so far, and its image's index in the unit."""

    fields: Fields
    image: int


@dataclass(frozen=True)
class Texts:
    """Holds one embedding for each request, [R, P], and each request's share of the seconds it took."""

    embeddings_RP: torch.Tensor
    seconds: float


@dataclass
class EncodedBatch:
    """Holds the features of some images and the requests about them.

    `image_of_request` has the index of each request's image within the batch. `texts` has the requests'
    embeddings under each setting that an arm reads. Seconds are each request's share.
    """

    features: VisualTokens
    requests: list[OpenRequest]
    image_of_request: list[int]
    encode_s: list[float]
    texts: dict[ClipText, Texts] = field(default_factory=dict)

    def reading(self, texts: Texts | None) -> Self:
        """Return the batch with one setting's texts, or none, among its features."""
        text_RP = None if texts is None else texts.embeddings_RP
        return replace(self, features=replace(self.features, text=text_RP))


@dataclass(frozen=True)
class Reduction:
    """Holds one arm's results for a batch, and the index of each request's result.

    An example with two images and three requests, the last two about the second image: an arm that reads the
    image alone has two results, and `result_of_request` is [0, 1, 1]; an arm that reads the question, too,
    has three results, and [0, 1, 2]. In place of a result stands the error if the reducer refused the image.
    """

    results: list[Reduced | str]
    result_of_request: list[int]
    tokens: list[bytes]  # the tokens of each result
    reduce_s: float  # each request's share

    def kept_counts(self) -> list[int | None]:
        """Count the tokens kept for each request; None if the image was refused."""
        counts = [None if isinstance(item, str) else len(item.tokens) for item in self.results]
        return [counts[index] for index in self.result_of_request]


def reduce_batch(
    arm: Arm,
    encoded: EncodedBatch,
    budget: Sequence[int | None] | None,
    batch_size: int,
    device: torch.device,
) -> Reduction:
    """Reduce image by image, or request by request if the arm reads the request.

    Args:
        budget: how many tokens to keep for each request; None for a request whose image the arm of the
            budget refused.
        batch_size: how many requests are reduced at a time.
    """
    begin = synchronized_time(device)
    if arm.reads_request:
        results = [
            item
            for start in range(0, len(encoded.requests), batch_size)
            for item in _reduce_requests(arm, encoded, slice(start, start + batch_size), budget)
        ]
        result_of_request = list(range(len(results)))
    else:
        results, result_of_request = _reduce_images(arm, encoded.features), encoded.image_of_request
    tokens = [b"" if isinstance(item, str) else to_bytes(item.tokens) for item in results]
    reduce_s = (synchronized_time(device) - begin) / len(encoded.requests)
    return Reduction(results, result_of_request, tokens, reduce_s)


def _reduce_requests(
    arm: Arm, encoded: EncodedBatch, part: slice, budget: Sequence[int | None] | None
) -> list[Reduced | str]:
    """Reduce the images of a slice of the requests, each with its own question, identity and budget."""
    features = _features_of_requests(encoded, part)
    if budget is None:
        return _reduce_images(arm, features)
    counts = [count or 1 for count in budget[part]]
    results = _reduce_images(
        arm, replace(features, budget=torch.tensor(counts, device=features.patches.device))
    )
    missing = f"arm {arm.budget_of}, as many of whose tokens are kept here, refused the image"
    return [missing if count is None else item for item, count in zip(results, budget[part], strict=True)]


def _features_of_requests(encoded: EncodedBatch, part: slice) -> VisualTokens:
    """Select the features of a slice of the requests, repeating an image's for each of its questions."""
    requests = encoded.requests[part]
    features = encoded.features
    device = features.patches.device
    rows = torch.tensor(encoded.image_of_request[part], device=device)
    selected = {name: tensor[rows] for name, tensor in _tensors(features).items() if name != "text"}
    if features.text is not None:
        selected["text"] = features.text[part]
    hashes = [identity_of(item.fields["image_sha256"], item.fields["question"]) for item in requests]
    return VisualTokens(**selected, identity=torch.tensor(hashes, device=device))


def _reduce_images(arm: Arm, features: VisualTokens) -> list[Reduced | str]:
    """Reduce each image; the result of an image that the reducer refused is the error message."""
    try:
        return list(arm.reducer(features))
    except ValueError as error:
        count = len(features.patches)
        if count == 1:
            return [f"the reducer refused the image: {error}"]
        # the batch says only that some image was refused: try them one by one
        singles = (
            {name: t[index : index + 1] for name, t in _tensors(features).items()} for index in range(count)
        )
        return [item for tensors in singles for item in _reduce_images(arm, VisualTokens(**tensors))]


def _tensors(features: VisualTokens) -> dict[str, torch.Tensor]:
    """Collect the fields that are set, by name."""
    return {name: tensor for name, tensor in vars(features).items() if tensor is not None}


def identity_of(image_sha256: str, question: str) -> int:
    """Hash an image and its question to 63 bits, with which the reducer `Random` seeds its choice."""
    digest = hashlib.sha256(f"{image_sha256}\n{question}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
