"""Makes tables of what encode has computed: a row of REQUESTS for each request and arm, and TOKENS.

Legend: N patches, D vision width, K tokens kept, k patches kept.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pipeline.models.devices import as_bytes
from pipeline.stages.batches import OpenRequest
from pipeline.stages.reduce import Reduction
from pipeline.stages.rows import Fields, binary_cell
from pipeline.stages.transfer import Fetch, seconds_between
from pipeline.support.schema import REQUESTS, TOKENS


@dataclass
class UnitOutput:
    """Collects the rows of the unit's tables, batch by batch. Tokens stay where they are until `tables`."""

    num_patches: int
    requests: list[Fields] = field(default_factory=list)
    tokens: list[pa.RecordBatch] = field(default_factory=list)  # of one row each

    def tables(self) -> dict[str, pa.Table]:
        """Make the tables, with the requests in the order of arms and keys."""
        self.requests.sort(key=lambda fields: (fields["arm"], fields["key"]))
        return {
            "requests": pa.Table.from_pylist(self.requests, schema=REQUESTS),
            "tokens": pa.Table.from_batches(self.tokens, schema=TOKENS),
        }

    def add(self, batch: "ArmBatch") -> None:
        """Add one arm's rows of a batch, whose copies have arrived."""
        offset = len(self.tokens)
        self.tokens += batch.token_rows()
        bitmaps = batch.bitmaps(self.num_patches)
        encode_s, reduce_s = batch.encode_s(), batch.reduce_s()
        for index, request in enumerate(batch.requests):
            result = batch.result_of_request[index]
            if (error := batch.errors[result]) is not None:
                refused = {"arm": batch.arm, "status": "failed", "error": error}
                self.requests.append({**request.fields, **refused})
                continue
            self.requests.append(
                {
                    **request.fields,
                    "arm": batch.arm,
                    "visual": offset + result,
                    "visual_tokens_full": self.num_patches,
                    "visual_tokens_kept": len(batch.tokens[result]),
                    "kept_patches": bitmaps[result],
                    "encode_s": encode_s[index],
                    "reduce_s": reduce_s,
                }
            )


@dataclass(frozen=True)
class EncodeMarks:
    """Holds the marks around a batch's tower, and around the embedding of the texts that an arm reads."""

    images: tuple[Any, Any]
    texts: tuple[Any, Any] | None


@dataclass(frozen=True)
class ArmBatch:
    """Holds one arm's results for a batch on the host, once their copies have arrived; see `Fetch`.

    Each result has `tokens` [K, D] and `kept` [k]; both are empty where the reducer refused the image, and
    `errors` says why.
    """

    arm: int
    requests: list[OpenRequest]
    image_of_request: list[int]
    result_of_request: list[int]
    errors: list[str | None]
    tokens: list[Tensor]
    kept: list[Tensor]
    marks: EncodeMarks
    reduce_marks: tuple[Any, Any]

    @classmethod
    def begin(
        cls,
        arm: int,
        requests: list[OpenRequest],
        image_of_request: list[int],
        reduction: Reduction,
        marks: EncodeMarks,
        fetch: Fetch,
    ) -> "ArmBatch":
        """Begin to copy a reduction to the host; the device's tensors may go at once."""
        whole = [item for item in reduction.results if not isinstance(item, str)]
        tokens = iter(fetch.start([item.tokens for item in whole]))
        kept = iter(fetch.start([item.kept for item in whole]))
        empty = torch.empty(0, dtype=torch.int64)
        return cls(
            arm,
            requests,
            image_of_request,
            reduction.result_of_request,
            [item if isinstance(item, str) else None for item in reduction.results],
            [empty if isinstance(item, str) else next(tokens) for item in reduction.results],
            [empty if isinstance(item, str) else next(kept) for item in reduction.results],
            marks,
            reduction.marks,
        )

    def token_rows(self) -> list[pa.RecordBatch]:
        """Make a row of TOKENS for each result, which shares its memory."""
        cells = [binary_cell(pa.py_buffer(as_bytes(tokens_KD))) for tokens_KD in self.tokens]
        return [pa.record_batch([cell], schema=TOKENS) for cell in cells]

    def bitmaps(self, num_patches: int) -> list[bytes]:
        """Encode each result's kept patches: one bit a patch, row by row, the first the highest of a byte."""
        mask = np.zeros((len(self.kept), num_patches), bool)
        for row, kept_k in zip(mask, self.kept, strict=True):
            row[kept_k.numpy()] = True
        return [row.tobytes() for row in np.packbits(mask, axis=1)]

    def encode_s(self) -> list[float]:
        """Return each request's share of the seconds of both towers; requests share those of their image."""
        counts = Counter(self.image_of_request)
        of_image = seconds_between(*self.marks.images) / len(counts)
        texts = self.marks.texts
        of_text = 0.0 if texts is None else seconds_between(*texts) / len(self.requests)
        return [of_image / counts[image] + of_text for image in self.image_of_request]

    def reduce_s(self) -> float:
        """Return each request's share of the seconds of the reduction."""
        return seconds_between(*self.reduce_marks) / len(self.requests)
