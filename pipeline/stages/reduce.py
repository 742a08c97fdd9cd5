"""Applies an arm's reducer to a batch of encoded images and the requests about them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.stages.arms import Arm
from pipeline.stages.batches import DeviceBatch
from pipeline.stages.transfer import mark
from trim import Reduced, VisualTokens
from trim.host import send


@dataclass(frozen=True)
class Texts:
    """Holds one embedding for each request, [R, P], and the marks before and after they were computed."""

    embeddings_RP: torch.Tensor
    marks: tuple[Any, Any]


@dataclass(frozen=True)
class EncodedBatch:
    """Holds the features of some images, with one setting's texts among them, and the requests about them."""

    features: VisualTokens
    batch: DeviceBatch


@dataclass(frozen=True)
class Reduction:
    """Holds one arm's results for a batch, and the index of each request's result.

    An example with two images and three requests, the last two about the second image: an arm that reads the
    image alone has two results, and `result_of_request` is [0, 1, 1]; an arm that reads the question, too,
    has three results, and [0, 1, 2]. In place of a result stands the error if the reducer refused the image.
    """

    results: list[Reduced | str]
    result_of_request: list[int]
    marks: tuple[Any, Any]  # before and after

    def kept_counts(self) -> list[int | None]:
        """Count the tokens kept for each request; None if the image was refused."""
        counts = [None if isinstance(item, str) else len(item.tokens) for item in self.results]
        return [counts[index] for index in self.result_of_request]


def reduce_batch(
    arm: Arm,
    encoded: EncodedBatch,
    texts: Texts | None,
    budget: Sequence[int | None] | None,
    batch_size: int,
    device: torch.device,
) -> Reduction:
    """Reduce image by image, or request by request if the arm reads the request.

    Args:
        texts: those that the arm reads.
        budget: how many tokens to keep for each request; None for a request whose image the arm of the
            budget refused.
        batch_size: how many requests are reduced at a time.
    """
    begin = mark(device)
    host = encoded.batch.host
    if texts is not None:
        features = dataclasses.replace(encoded.features, text=texts.embeddings_RP)
        encoded = EncodedBatch(features, encoded.batch)
    if arm.reads_request:
        results = [
            item
            for start in range(0, len(host.requests), batch_size)
            for item in _reduce_requests(arm, encoded, slice(start, start + batch_size), budget)
        ]
        result_of_request = list(range(len(results)))
    else:
        results, result_of_request = _reduce_images(arm, encoded.features), host.image_of_request
    return Reduction(results, result_of_request, (begin, mark(device)))


def _reduce_requests(
    arm: Arm, encoded: EncodedBatch, part: slice, budget: Sequence[int | None] | None
) -> list[Reduced | str]:
    """Reduce the images of a slice of the requests, each with its own question, identity and budget."""
    features = _features_of_requests(encoded, part)
    if budget is None:
        return _reduce_images(arm, features)
    counts = [count or 1 for count in budget[part]]
    results = _reduce_images(
        arm, dataclasses.replace(features, budget=send(torch.tensor(counts), features.patches.device))
    )
    missing = f"arm {arm.budget_of}, as many of whose tokens are kept here, refused the image"
    return [missing if count is None else item for item, count in zip(results, budget[part], strict=True)]


def _features_of_requests(encoded: EncodedBatch, part: slice) -> VisualTokens:
    """Select the features of a slice of the requests, repeating an image's for each of its questions."""
    features, batch = encoded.features, encoded.batch
    images = batch.host.image_of_request[part]
    first, one_each = images[0], images == list(range(images[0], images[0] + len(images)))
    rows = slice(first, first + len(images)) if one_each else batch.image_R[part]  # a slice copies nothing
    selected = {name: tensor[rows] for name, tensor in _tensors(features).items() if name != "text"}
    if features.text is not None:
        selected["text"] = features.text[part]
    if len(batch.identity_R):
        selected["identity"] = batch.identity_R[part]
    return VisualTokens(**selected)


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
