"""Encode: CLIP once per image, then each arm's reduction of its tokens.

B images, N patches, D vision width, P joint CLIP width, K tokens kept.
"""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.models.devices import clock, to_bytes, torch_device, use_threads
from pipeline.sources.task import requests_of
from pipeline.stages.arms import Arm, reduction_order, with_budgets
from pipeline.stages.clip_text import ClipText
from pipeline.stages.rows import UnitRow, pack, unpack
from pipeline.support.schema import REQUESTS, TOKENS
from trim import Reduced, VisualTokens


@dataclass(frozen=True)
class _Pending:
    """A request that can be answered: its fields so far, and where its image stands in the unit."""

    fields: dict[str, Any]
    image: int


@dataclass
class _Batch:
    """Some images' CLIP features with their requests; `place` is a request's image within the batch."""

    features: VisualTokens
    requests: list[_Pending]
    place: list[int]
    encode_s: list[float]  # each request's share
    text_s: float = 0.0  # each request's share, charged to the arms that read texts


@dataclass
class _Output:
    """The rows of the unit's tables as they come."""

    requests: list[dict[str, Any]] = field(default_factory=list)
    tokens: list[bytes] = field(default_factory=list)


class Encode:
    """The encode actor: holds CLIP's towers; called with one unit at a time."""

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
        self._clip_text, self._suffix, self._template = clip_text or ClipText(), suffix, model.template
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
        """One unit's IMAGES to REQUESTS (one row per request and arm) and TOKENS."""
        started, cpu_from = time.time(), time.process_time()
        row = unpack(batch)
        images = row.tables["images"]
        output = _Output()
        wanted = row.arms(len(self._arms))
        counted = with_budgets(self._arms, wanted)
        pending = _open_requests(row, images, wanted, output)
        answerable = sorted({request.image for request in pending})
        for start in range(0, len(answerable), self._batch_size):
            part = answerable[start : start + self._batch_size]
            encoded = self._encode(images, part, [request for request in pending if request.image in part])
            kept: dict[str, list[int | None]] = {}
            for number in (number for number in self._order if number in counted):
                self._reduce(number, encoded, kept, output if number in wanted else _Output())
        output.requests.sort(key=lambda fields: (fields["arm"], fields["key"]))
        tables = {
            "requests": pa.Table.from_pylist(output.requests, schema=REQUESTS),
            "tokens": pa.table([pa.array(output.tokens, pa.large_binary())], schema=TOKENS),
        }
        return pack(row.passed("encode", started, tables, self._startup_s, cpu_from))

    def _encode(self, images: pa.Table, part: list[int], requests: list[_Pending]) -> _Batch:
        """CLIP over some images and, if an arm reads them, their questions."""
        begin = clock(self._device)
        side = self._geometry.image_size
        squares = [np.frombuffer(images["pixels"][index].as_buffer(), np.uint8) for index in part]
        pixels_BHWC = torch.from_numpy(np.stack(squares).reshape(-1, side, side, 3))
        fields = self._encoder.encode_images(pixels_BHWC, self._needs)
        if self._projector is not None:
            fields["embeddings"] = self._projector(fields["patches"])
        features = VisualTokens(**fields)
        image_s = (clock(self._device) - begin) / len(part)
        place = [part.index(request.image) for request in requests]
        encoded = _Batch(features, requests, place, [image_s / place.count(index) for index in place])
        if "text" in self._needs:
            begin = clock(self._device)
            texts = [
                self._clip_text.of(item.fields["question"], suffix=self._suffix, template=self._template)
                for item in requests
            ]
            windows = self._clip_text.long == "windows"
            encoded.features = replace(features, text=self._encoder.encode_texts(texts, windows=windows))
            encoded.text_s = (clock(self._device) - begin) / len(texts)
        return encoded

    def _reduce(
        self, number: int, encoded: _Batch, kept: dict[str, list[int | None]], output: _Output
    ) -> None:
        """One arm's reduction of a batch: image by image, or request by request if it reads the request.

        `kept` has how many tokens arms kept of each request (None: refused), and gets this arm's.
        """
        arm = self._arms[number]
        begin = clock(self._device)
        if arm.reads_request:
            budget = None if arm.budget_of is None else kept[arm.budget_of]
            reduced = [
                item
                for at in range(0, len(encoded.requests), self._batch_size)
                for item in _of_slice(arm, encoded, slice(at, at + self._batch_size), budget)
            ]
            visual = list(range(len(reduced)))
        else:
            reduced, visual = _reduced(arm, encoded.features), encoded.place
        counts = [None if isinstance(item, str) else len(item.tokens) for item in reduced]
        kept[arm.name] = [counts[place] for place in visual]
        offset = len(output.tokens)
        output.tokens += [b"" if isinstance(item, str) else to_bytes(item.tokens) for item in reduced]
        reduce_s = (clock(self._device) - begin) / len(encoded.requests)
        text_s = encoded.text_s if "text" in arm.reducer.needs else 0.0
        for index, request in enumerate(encoded.requests):
            item = reduced[visual[index]]
            if isinstance(item, str):
                refused = {"arm": number, "status": "failed", "error": item}
                output.requests.append({**request.fields, **refused})
                continue
            output.requests.append(
                {
                    **request.fields,
                    "arm": number,
                    "visual": offset + visual[index],
                    "visual_tokens_full": self._geometry.num_patches,
                    "visual_tokens_kept": len(item.tokens),
                    "kept_patches": _bitmap(item, self._geometry.num_patches),
                    "encode_s": encoded.encode_s[index] + text_s,
                    "reduce_s": reduce_s,
                }
            )


def _open_requests(row: UnitRow, images: pa.Table, arms: Sequence[int], output: _Output) -> list[_Pending]:
    """The requests that can be answered; the others go to the output as they are, once for each arm."""
    pending = []
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
            if fields["status"] == "ok" and not request["question"].strip():
                fields |= {"status": "bad_question", "error": "the question is empty"}
            if fields["status"] == "ok":
                pending.append(_Pending(fields, index))
            else:
                output.requests += [{**fields, "arm": arm} for arm in arms]
    return pending


def _of_slice(
    arm: Arm, encoded: _Batch, part: slice, budget: Sequence[int | None] | None
) -> list[Reduced | str]:
    """The reducer's results for a slice of the requests; none where the budget's own arm has none."""
    features = _of_requests(encoded, part)
    if budget is None:
        return _reduced(arm, features)
    number = [count or 1 for count in budget[part]]
    device = features.patches.device
    found = _reduced(arm, replace(features, budget=torch.tensor(number, device=device)))
    missing = f"arm {arm.budget_of}, as many of whose tokens are kept here, refused the image"
    return [missing if count is None else item for item, count in zip(found, budget[part], strict=True)]


def _of_requests(encoded: _Batch, part: slice) -> VisualTokens:
    """The features of a slice of the requests: an image's once for each of its questions."""
    requests, place = encoded.requests[part], encoded.place[part]
    features = encoded.features
    device = features.patches.device
    rows = torch.tensor(place, device=device)
    given = {name: value for name, value in vars(features).items() if value is not None and name != "text"}
    selected: dict[str, Any] = {name: value[rows] for name, value in given.items()}
    if features.text is not None:
        selected["text"] = features.text[part]
    names = [identity_of(item.fields["image_sha256"], item.fields["question"]) for item in requests]
    return VisualTokens(**selected, identity=torch.tensor(names, device=device))


def _reduced(arm: Arm, features: VisualTokens) -> list[Reduced | str]:
    """The reducer's result for each image, or why it refused that image (say, scores that overflowed)."""
    try:
        return list(arm.reducer(features))
    except ValueError as error:
        count = len(features.patches)
        if count == 1:
            return [f"the reducer refused the image: {error}"]
        return [item for index in range(count) for item in _reduced(arm, _one(features, index))]


def _one(features: VisualTokens, index: int) -> VisualTokens:
    given: dict[str, Any] = {name: value for name, value in vars(features).items() if value is not None}
    return VisualTokens(**{name: value[index : index + 1] for name, value in given.items()})


def identity_of(image_sha256: str, question: str) -> int:
    """What `Random` seeds with: 63 bits of a hash of the image and its question."""
    digest = hashlib.sha256(f"{image_sha256}\n{question}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _bitmap(item: Reduced, num_patches: int) -> bytes:
    """One bit a patch, row by row, the first patch in the highest bit of the first byte."""
    mask = np.zeros(num_patches, bool)
    mask[item.kept.to("cpu").numpy()] = True
    return np.packbits(mask).tobytes()
