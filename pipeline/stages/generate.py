"""Generates answers from questions and reduced visual tokens."""

import time
from collections.abc import Sequence

import pyarrow as pa
import torch

from pipeline.engines.base import Answer, EngineConfig, Request
from pipeline.models.checkpoints.fit import Geometry
from pipeline.models.config import Decoding, Model, fill_template
from pipeline.models.devices import device_name, from_bytes, torch_device, use_threads
from pipeline.sources.task import kind_of_answer
from pipeline.stages.arms import Arm
from pipeline.stages.rows import Fields, pack_unit, unpack_unit
from pipeline.support.schema import REQUESTS


class Generate:
    """Answers requests; the class of the generate actors, which hold the engine.

    Each of an actor's threads works on one unit at a time. `prompts` are the task's fixed ones.
    """

    def __init__(
        self,
        *,
        engine: EngineConfig,
        model: Model,
        decoding: Decoding,
        geometry: Geometry,
        arms: tuple[Arm, ...],
        seed: int,
        device: str,
        threads: int | None,
        prompts: Sequence[str] = (),
    ) -> None:
        started = time.perf_counter()
        use_threads(threads)
        self._prompts = prompts
        self._template, self._dtype = model.template, getattr(torch, model.encode_dtype)
        self._width, self._num_arms = geometry.vision_width, len(arms)
        self._engine = engine.load(model, decoding, device=str(torch_device(device)), seed=seed)
        self._device = device_name(torch_device(device))
        self._startup_s = time.perf_counter() - started

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Turn one unit's REQUESTS and TOKENS into REQUESTS with answers, one arm after the other."""
        started, cpu_from = time.time(), time.process_time()
        row = unpack_unit(batch)
        requests, tokens = row.tables["requests"].to_pylist(), row.tables["tokens"]["tokens"]
        for arm in row.arms(self._num_arms):
            answerable = [fields for fields in requests if fields["arm"] == arm and fields["status"] == "ok"]
            if not answerable:
                continue  # an engine need not know how to answer nothing
            answers = self._engine.generate([self._request(fields, tokens) for fields in answerable])
            for fields, answer in zip(answerable, answers, strict=True):
                fields.update(_answer_fields(fields, answer))
        tables = {"requests": pa.Table.from_pylist(requests, schema=REQUESTS)}
        return pack_unit(row.passed("generate", started, tables, self._startup_s, cpu_from, self._device))

    def _request(self, fields: Fields, tokens: pa.ChunkedArray) -> Request:
        question = fields["question"].replace("<image>", " ")
        visual = from_bytes(tokens[fields["visual"]].as_buffer(), self._dtype, self._width)
        kind = kind_of_answer(fields["question"], self._prompts)
        return Request(fill_template(self._template, question), visual, fields["key"], kind)


def _answer_fields(fields: Fields, answer: Answer) -> Fields:
    """Translate an answer into columns of REQUESTS."""
    if answer.error is not None:
        return {"status": answer.status, "error": answer.error, "prompt_tokens": answer.prompt_tokens}
    total = fields["visual_tokens_kept"] + answer.prompt_tokens + answer.generated_tokens
    return {
        "prediction": answer.text,
        "finish_reason": answer.finish_reason,
        "prompt_tokens": answer.prompt_tokens,
        "generated_tokens": answer.generated_tokens,
        "prefill_s": answer.prefill_s,
        "generate_s": answer.generate_s,
        "tokens_per_s": total / answer.generate_s if answer.generate_s > 0 else None,
    }
