"""Encodes images: the vision tower once per image, then each arm's reduction of its visual tokens.

Legend: B images, N patches, D vision width, P joint CLIP width, R requests, K tokens kept.
"""

import logging
import time
from collections.abc import Collection, Iterator, Sequence
from functools import partial

import pyarrow as pa
import torch

from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.models.devices import device_name, no_tf32, torch_device, use_threads
from pipeline.sources.task import requests_of
from pipeline.stages.arms import Arm, reduction_order, with_budgets
from pipeline.stages.batches import DeviceBatch, HostBatch, OpenRequest, Preparer
from pipeline.stages.clip_text import ClipText
from pipeline.stages.encoded import ArmBatch, EncodeMarks, UnitOutput
from pipeline.stages.reduce import EncodedBatch, Texts, reduce_batch
from pipeline.stages.rows import UnitRow, pack_unit, unpack_unit
from pipeline.stages.transfer import Arena, Fetch, Staged, Staging, mark
from pipeline.support.parallel import each
from trim import VisualTokens


class Encode:
    """Encodes units; the class of the encode actors, which hold the vision and text towers.

    An actor is called with one unit at a time. While a GPU works on a batch, another thread prepares the next
    one, and the results of the one before are on their way to the host.
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
        dtype = getattr(torch, model.encode_dtype)
        if dtype == torch.float32:
            no_tf32()
        self._encoder = load_encoder(model, geometry, needs=self._needs, device=self._device)
        self._projector = None
        if "embeddings" in self._needs:
            from pipeline.models.prompts import load_projector

            self._projector = load_projector(folders(model)[0], dtype).to(self._device)
        self._arena, self._staging = Arena(), Staging(self._device)
        self._startup_s = time.perf_counter() - started

    @torch.inference_mode()
    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn one unit's IMAGES into REQUESTS (one row per request and arm) and TOKENS."""
        started, cpu_from = time.time(), time.process_time()
        row = unpack_unit(batch)
        self._arena.reset()
        output = UnitOutput(self._geometry.num_patches)
        output_arms = row.arms(len(self._arms))
        needed_arms = with_budgets(self._arms, output_arms)
        requests = _open_requests(row, row.tables["images"], output_arms, output)
        preparer = self._preparer(row.tables["images"], requests, needed_arms)
        waiting: list[tuple[Fetch, list[ArmBatch]]] = []
        for staged in self._staged(preparer):
            waiting += self._encoded(preparer, *staged, self._batch_size, needed_arms, output_arms)
            while len(waiting) > 1:  # the GPU works on the last one
                _finish(*waiting.pop(0), output)
        for results in waiting:
            _finish(*results, output)
        visit = started, output.tables(), self._startup_s, cpu_from, device_name(self._device)
        return pack_unit(row.passed("encode", *visit))

    def _preparer(
        self, images: pa.Table, requests: list[OpenRequest], needed_arms: Collection[int]
    ) -> Preparer:
        """Make what prepares the batches of a unit."""
        settings = dict.fromkeys(self._clip_text[n] for n in sorted(needed_arms) if self._arms[n].reads_text)
        return Preparer(
            images,
            requests,
            side=self._geometry.image_size,
            encoder=self._encoder,
            texts={
                setting: partial(setting.of, suffix=self._suffix, template=self._template)
                for setting in settings
            },
            identities="identity" in self._needs,
        )

    def _staged(self, preparer: Preparer) -> Iterator[tuple[HostBatch, Staged]]:
        """Prepare and stage a unit's batches in order; for a GPU each while it works on the one before."""
        images = preparer.images
        parts = [images[at : at + self._batch_size] for at in range(0, len(images), self._batch_size)]

        def stage(part: list[int]) -> tuple[HostBatch, Staged]:
            batch = preparer.prepare(part)
            return batch, self._staging.stage(batch.arrays())

        # With one thread two batches at most are pending, as many as `Staging` has buffers.
        return each(stage, parts, threads=1) if self._device.type == "cuda" else map(stage, parts)

    def _encoded(
        self,
        preparer: Preparer,
        batch: HostBatch,
        staged: Staged | None,
        size: int,
        needed_arms: Collection[int],
        output_arms: Collection[int],
    ) -> list[tuple[Fetch, list[ArmBatch]]]:
        """Encode a batch, and if the GPU's memory is too small, as batches of half the size.

        Args:
            staged: its arrays; None: they are sent without a buffer.
            size: how many images, and how many requests, are worked on at a time.

        Raises:
            torch.OutOfMemoryError: there is no room for one image.
        """
        try:
            # No name here holds a tensor of the device, or the halves would have less room.
            sent = self._staging.send
            return [
                self._encode(
                    batch.on_device(sent(staged or Staged(batch.arrays()))), size, needed_arms, output_arms
                )
            ]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
        torch.cuda.empty_cache()
        half = (size + 1) // 2
        logging.getLogger(__name__).warning(
            "encode: the GPU has no room for %d images at once: trying %d", size, half
        )
        parts = [batch.images[at : at + half] for at in range(0, len(batch.images), half)]
        return [
            results
            for part in parts
            for results in self._encoded(
                preparer, preparer.prepare(part), None, half, needed_arms, output_arms
            )
        ]

    def _encode(
        self, batch: DeviceBatch, size: int, needed_arms: Collection[int], output_arms: Collection[int]
    ) -> tuple[Fetch, list[ArmBatch]]:
        """Run towers and reducers over a batch; each arm's results are then on their way to the host."""
        host = batch.host
        begin = mark(self._device)
        fields = self._encoder.encode_images(batch.pixels_BSSC, self._needs)
        if self._projector is not None:
            fields["embeddings"] = self._projector(fields["patches"])
        of_images = begin, mark(self._device)
        encoded = EncodedBatch(VisualTokens(**fields), batch)
        texts = {setting: self._embed_texts(batch, setting) for setting in batch.padded}
        fetch = Fetch(self._device, self._arena)
        kept_counts: dict[str, list[int | None]] = {}
        arm_batches = []
        for number in (number for number in self._order if number in needed_arms):
            arm = self._arms[number]
            of_arm = texts[self._clip_text[number]] if arm.reads_text else None
            budget = None if arm.budget_of is None else kept_counts[arm.budget_of]
            reduction = reduce_batch(arm, encoded, of_arm, budget, size, self._device)
            kept_counts[arm.name] = reduction.kept_counts()
            if number in output_arms:  # not if it is needed for its counts alone
                marks = EncodeMarks(of_images, None if of_arm is None else of_arm.marks)
                arm_batches.append(
                    ArmBatch.begin(number, host.requests, host.image_of_request, reduction, marks, fetch)
                )
        fetch.end()
        return fetch, arm_batches

    def _embed_texts(self, batch: DeviceBatch, setting: ClipText) -> Texts:
        """Run the text tower over the texts of one setting."""
        begin = mark(self._device)
        text_RP = self._encoder.embed_tokens(batch.padded[setting], batch.host.tokens[setting].counts)
        return Texts(text_RP, (begin, mark(self._device)))


def _finish(fetch: Fetch, arm_batches: list[ArmBatch], output: UnitOutput) -> None:
    """Wait for a batch's results and add them to the output."""
    fetch.wait()
    for arm_batch in arm_batches:
        output.add(arm_batch)


def _open_requests(
    row: UnitRow, images: pa.Table, arms: Sequence[int], output: UnitOutput
) -> list[OpenRequest]:
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
