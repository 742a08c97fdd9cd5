"""Answers the same requests under each arm and with the plain loop, on one device and one set of weights.

Legend: B requests, S pixels a side, K tokens kept of one image, D vision width.
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.benchmark.devices import peak_mib
from pipeline.benchmark.operations import operations_of
from pipeline.benchmark.plain_loop import PlainLoop
from pipeline.engines.base import Engine, EngineConfig, Request
from pipeline.engines.transformers import Transformers
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Decoding, Model, fill_template
from pipeline.models.devices import synchronized_time
from pipeline.models.encoder import load_encoder
from pipeline.models.llava import LanguageModel
from pipeline.models.preprocess import preprocessor_of
from pipeline.models.prompts import load_projector
from pipeline.stages.batches import identity_of
from pipeline.support.memory import keep_freed_memory
from trim import Reducer, VisualTokens

_CPU = torch.device("cpu")
Measured = dict[str, float]  # one round of an arm: seconds, tokens, MiB, 10^12 operations a second


@dataclass(frozen=True)
class Job:
    """Holds the numbers of requests and rounds, the answers' length, and the batch sizes."""

    requests: int
    rounds: int
    new_tokens: int
    images_at_once: int
    loop_batches: tuple[int, ...]


class Bench:
    """Holds the weights, and the requests in the form that CLIP and the language model take.

    The transformers engine and the loop share one language model; without either, none is held here.
    """

    def __init__(
        self,
        model: Model,
        engine: EngineConfig,
        job: Job,
        needs: frozenset[str],
        device: torch.device = _CPU,
    ):
        keep_freed_memory()
        llava, clip = folders(model)
        self.job, self.geometry, self.device = job, check_fit(llava, clip), device
        self.operations = operations_of(llava, self.geometry)
        self.encoder = load_encoder(model, self.geometry, needs=needs | {"text"}, device=device)
        encode_dtype, dtype = getattr(torch, model.encode_dtype), getattr(torch, model.generate_dtype)
        self.projector = load_projector(llava, encode_dtype).to(device) if "embeddings" in needs else None
        decoding = Decoding(max_new_tokens=job.new_tokens)
        self.loop: PlainLoop | None = None
        self.engine: Engine
        if job.loop_batches or isinstance(engine, Transformers):
            language_model = LanguageModel(llava, device=device, dtype=dtype)
            if job.loop_batches:
                self.loop = PlainLoop(llava, clip, language_model, encode_dtype)
        if isinstance(engine, Transformers):
            self.engine = engine.of_model(language_model, decoding, seed=0)
        else:
            self.engine = engine.load(model, decoding, device=device.type, seed=0)
        preprocess = preprocessor_of(model)
        squares = [preprocess(_picture(index)) for index in range(job.requests)]
        self.pixels_BSSC = torch.from_numpy(np.stack(squares))
        # Questions of several lengths, as users ask them.
        self.questions = [f"What is thing {i} like{', and why' * (i % 4)}?" for i in range(job.requests)]
        self.prompts = [fill_template(model.template, text) for text in self.questions]

    def run(self, reducer: Reducer, number: int) -> Measured:
        """Answer all requests once under one arm."""
        pixels_BSSC = self.pictures(number)
        started = synchronized_time(self.device)
        tokens = [
            item
            for first in range(0, self.job.requests, self.job.images_at_once)
            for item in self._encode(reducer, pixels_BSSC, first)
        ]
        encoded = synchronized_time(self.device)
        requests = [Request(text, kept) for text, kept in zip(self.prompts, tokens, strict=True)]
        peak, answers = peak_mib(lambda: self.engine.generate(requests), self.device)
        done = synchronized_time(self.device)
        lengths = [len(kept) + answer.prompt_tokens for kept, answer in zip(tokens, answers, strict=True)]
        prefill_s = sum(answer.prefill_s for answer in answers)
        prefill = sum(map(self.operations.prefill, lengths))
        decode = sum(
            self.operations.decode(length, answer.generated_tokens)
            for length, answer in zip(lengths, answers, strict=True)
        )
        return {
            "encode_s": encoded - started,
            "generate_s": done - encoded,
            "prefill_s": prefill_s,
            "prefill_tflops": prefill / prefill_s / 1e12,
            "tflops": (len(answers) * self.operations.encode() + prefill + decode) / (done - started) / 1e12,
            "visual_tokens": float(np.mean([len(kept) for kept in tokens])),
            "generated_tokens": sum(answer.generated_tokens for answer in answers),
            "peak_mib": peak,
        }

    def run_loop(self, batch: int, number: int) -> Measured:
        """Answer all requests once with the plain loop, at one batch size."""
        assert self.loop is not None
        pixels_BCSS = self.encoder.normalize(self.pictures(number))
        answer = self.loop.answer
        peak, (encode_s, rest_s, answers) = peak_mib(
            lambda: answer(self.prompts, pixels_BCSS, batch, self.job.new_tokens), self.device
        )
        return {
            "encode_s": encode_s,
            "generate_s": rest_s,
            "visual_tokens": float(self.geometry.num_patches),
            "generated_tokens": sum(map(len, answers)),
            "peak_mib": peak,
        }

    def pictures(self, number: int) -> Tensor:
        """Shift the pictures down for one round; returns uint8 [B, S, S, 3]."""
        return self.pixels_BSSC.roll(16 * number, dims=1)

    @torch.inference_mode()
    def _encode(self, reducer: Reducer, pixels_BSSC: Tensor, first: int) -> list[Tensor]:
        """Encode and reduce the pictures of some requests; returns tokens [K, D] of each."""
        chosen = slice(first, first + self.job.images_at_once)
        fields: dict[str, Tensor] = self.encoder.encode_images(pixels_BSSC[chosen], reducer.needs)
        questions = self.questions[chosen]
        if "text" in reducer.needs:
            fields["text"] = self.encoder.encode_texts(questions)
        if "embeddings" in reducer.needs:
            assert self.projector is not None
            fields["embeddings"] = self.projector(fields["patches"])
        if "identity" in reducer.needs:
            fields["identity"] = torch.tensor(
                [identity_of("benchmark", text) for text in questions], device=self.device
            )
        kept = [item.tokens for item in reducer(VisualTokens(**fields))]
        # A run hands tokens to the language model through the host: one copy a batch.
        return (
            list(torch.split(torch.cat(kept).cpu(), [len(tokens) for tokens in kept]))
            if self.device.type == "cuda"
            else kept
        )


def _picture(index: int) -> Image.Image:
    coarse = np.random.default_rng(index).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)
