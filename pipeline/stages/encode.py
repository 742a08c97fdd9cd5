"""Encodes images: the vision tower once per image, then each arm's reduction of its visual tokens.

Legend: B images, N patches, D vision width, P joint CLIP width, R requests, K tokens kept.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.models.devices import device_name, synchronized_time, torch_device, use_threads
from pipeline.sources.task import requests_of
from pipeline.stages.arms import Arm, reduction_order, with_budgets
from pipeline.stages.clip_text import ClipText
from pipeline.stages.reduce import EncodedBatch, OpenRequest, Texts, reduce_batch
from pipeline.stages.rows import Fields, UnitRow, pack_unit, unpack_unit
from pipeline.support.schema import REQUESTS, TOKENS
from trim import Reduced, VisualTokens


@dataclass
class _Output:
    """Collects the rows of the unit's tables, batch by batch."""

    requests: list[Fields] = field(default_factory=list)
    tokens: list[bytes] = field(default_factory=list)


class Encode:
    """Encodes units; the class of the encode actors, which hold the vision and text towers.

    An actor is called with one unit at a time.
    """

    def __init__(
        self,
        *,
        model: Model,
        geometry: Geometry,
        arms: tuple[Arm, ...],
        device: str,
        threads: int | None,
        clip_text: ClipText | None = None,
        suffix: str = "",
    ) -> None:
        started = time.perf_counter()
        from pipeline.models.encoder import load_encoder

        use_threads(threads)
        self._arms, self._geometry = arms, geometry
        self._suffix, self._template = suffix, model.template
        self._clip_text = [arm.clip_text or clip_text or ClipText() for arm in arms]
        self._order = reduction_order(arms)
        self._needs = frozenset().union(*(arm.reducer.needs for arm in arms))
        self._batch_size = model.encode_batch_size
        self._device = torch_device(device)
        self._encoder = load_encoder(model, geometry, needs=self._needs, device=self._device)
        self._projector = None
        if "embeddings" in self._needs:
            from pipeline.models.prompts import load_projector

            dtype = getattr(torch, model.encode_dtype)
            self._projector = load_projector(folders(model)[0], dtype).to(self._device)
        self._startup_s = time.perf_counter() - started

    @torch.inference_mode()
    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn one unit's IMAGES into REQUESTS (one row per request and arm) and TOKENS."""
        started, cpu_from = time.time(), time.process_time()
        row = unpack_unit(batch)
        images = row.tables["images"]
        output = _Output()
        output_arms = row.arms(len(self._arms))
        needed_arms = with_budgets(self._arms, output_arms)
        requests = _open_requests(row, images, output_arms, output)
        answerable = sorted({request.image for request in requests})
        for start in range(0, len(answerable), self._batch_size):
            part = answerable[start : start + self._batch_size]
            encoded = self._encode(images, part, [request for request in requests if request.image in part])
            encoded.texts = self._embed_texts(encoded.requests, needed_arms)
            kept_counts: dict[str, list[int | None]] = {}
            for number in (number for number in self._order if number in needed_arms):
                # an arm that is needed for its counts alone writes into an output that is thrown away
                self._answer_arm(number, encoded, kept_counts, output if number in output_arms else _Output())
        output.requests.sort(key=lambda fields: (fields["arm"], fields["key"]))
        tables = {
            "requests": pa.Table.from_pylist(output.requests, schema=REQUESTS),
            "tokens": pa.table([pa.array(output.tokens, pa.large_binary())], schema=TOKENS),
        }
        return pack_unit(
            row.passed("encode", started, tables, self._startup_s, cpu_from, device_name(self._device))
        )

    def _encode(self, images: pa.Table, part: list[int], requests: list[OpenRequest]) -> EncodedBatch:
        """Run the vision tower over images."""
        begin = synchronized_time(self._device)
        side = self._geometry.image_size
        squares = [np.frombuffer(images["pixels"][index].as_buffer(), np.uint8) for index in part]
        pixels_BHWC = torch.from_numpy(np.stack(squares).reshape(-1, side, side, 3))
        fields = self._encoder.encode_images(pixels_BHWC, self._needs)
        if self._projector is not None:
            fields["embeddings"] = self._projector(fields["patches"])
        features = VisualTokens(**fields)
        image_s = (synchronized_time(self._device) - begin) / len(part)
        image_of_request = [part.index(request.image) for request in requests]
        encode_s = [image_s / image_of_request.count(image) for image in image_of_request]
        return EncodedBatch(features, requests, image_of_request, encode_s)

    def _embed_texts(self, requests: list[OpenRequest], arms: Collection[int]) -> dict[ClipText, Texts]:
        """Run the text tower over the questions, once for each text that these arms read."""
        embedded = {}
        for clip_text in dict.fromkeys(self._clip_text[n] for n in sorted(arms) if self._arms[n].reads_text):
            begin = synchronized_time(self._device)
            texts = [
                clip_text.of(request.fields["question"], suffix=self._suffix, template=self._template)
                for request in requests
            ]
            text_RP = self._encoder.encode_texts(texts, windows=clip_text.long == "windows")
            embedded[clip_text] = Texts(text_RP, (synchronized_time(self._device) - begin) / len(texts))
        return embedded

    def _answer_arm(
        self, number: int, encoded: EncodedBatch, kept_counts: dict[str, list[int | None]], output: _Output
    ) -> None:
        """Reduce a batch with one arm, add its rows to the output and its counts to `kept_counts`."""
        arm = self._arms[number]
        texts = encoded.texts[self._clip_text[number]] if arm.reads_text else None
        budget = None if arm.budget_of is None else kept_counts[arm.budget_of]
        reduction = reduce_batch(arm, encoded.reading(texts), budget, self._batch_size, self._device)
        kept_counts[arm.name] = reduction.kept_counts()
        offset = len(output.tokens)
        output.tokens += reduction.tokens
        text_s = 0.0 if texts is None else texts.seconds
        for index, request in enumerate(encoded.requests):
            result = reduction.result_of_request[index]
            reduced = reduction.results[result]
            if isinstance(reduced, str):
                refused = {"arm": number, "status": "failed", "error": reduced}
                output.requests.append({**request.fields, **refused})
                continue
            output.requests.append(
                {
                    **request.fields,
                    "arm": number,
                    "visual": offset + result,
                    "visual_tokens_full": self._geometry.num_patches,
                    "visual_tokens_kept": len(reduced.tokens),
                    "kept_patches": _bitmap(reduced, self._geometry.num_patches),
                    "encode_s": encoded.encode_s[index] + text_s,
                    "reduce_s": reduction.reduce_s,
                }
            )


def _open_requests(row: UnitRow, images: pa.Table, arms: Sequence[int], output: _Output) -> list[OpenRequest]:
    """List the requests that can be answered; faulty ones go to the output right away, once for each arm."""
    open_requests = []
    for index, sample in enumerate(images.drop_columns(["pixels"]).to_pylist()):
        requests = requests_of(row.unit.shard, sample)
        decode_s = sample["image_decode_s"]
        del sample["questions"]
        for request in requests:
            fields = {
                **sample,
                **request,
                "image_decode_s": None if decode_s is None else decode_s / len(requests),
            }
            fault = fields.pop("fault") or ("" if request["question"].strip() else "the question is empty")
            if fields["status"] == "ok" and fault:
                fields |= {"status": "bad_question", "error": fault}
            if fields["status"] == "ok":
                open_requests.append(OpenRequest(fields, index))
            else:
                output.requests += [{**fields, "arm": arm} for arm in arms]
    return open_requests


def _bitmap(reduced: Reduced, num_patches: int) -> bytes:
    """Encode the kept patches as one bit per patch, row by row, beginning with the highest bit of a byte."""
    mask = np.zeros(num_patches, bool)
    mask[reduced.kept.to("cpu").numpy()] = True
    return np.packbits(mask).tobytes()
