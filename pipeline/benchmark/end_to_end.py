"""Measures seconds a request, from pixels to answers, of Trimline's arms and of the plain transformers loop.

All arms answer the same requests in one process and take turns round by round; if the engine is
`transformers`, they share one set of weights. All compute on the device of the run, and each clock waits for
it. Pictures are decoded beforehand. CLIP with reduction, and generation, are timed separately. The loop runs
at batch 1, as TRIM's paper measured it, and at others; its best is the least median. Each round has new
pictures: an engine with a prefix cache would know the last ones.

Legend: B requests, S pixels a side, K tokens kept of one image, D vision width.
"""

import ctypes
import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipeline.benchmark.devices import compute_device, gemm_tflops, peak_mib
from pipeline.benchmark.options import EndToEndOptions
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
from pipeline.run.config import RunConfig
from pipeline.stages.batches import identity_of
from pipeline.support.table import Table
from trim import Reducer, VisualTokens


@dataclass(frozen=True)
class Job:
    """Holds the numbers of requests and rounds, the answers' length, and the batch sizes."""

    requests: int
    rounds: int
    new_tokens: int
    images_at_once: int
    loop_batches: tuple[int, ...]


_CPU = torch.device("cpu")
Measured = dict[str, float]  # one round of an arm: seconds, tokens, MiB
ArmFigures = dict[str, Any]  # JSON: the medians of Measured, ratios to baselines, and `rounds`


class EndToEndFigures(TypedDict):
    """Holds the figures of every arm; `best_loop` is the plain loop with the least median."""

    model: str
    engine: str
    dtype: str
    requests: int
    new_tokens: int
    best_loop: str
    gemm_tflops: float
    arms: dict[str, ArmFigures]


class Bench:
    """Holds one set of weights, and the requests in the form that CLIP and the language model take."""

    def __init__(
        self,
        model: Model,
        engine: EngineConfig,
        job: Job,
        needs: frozenset[str],
        device: torch.device = _CPU,
    ):
        llava, clip = folders(model)
        preprocess = preprocessor_of(model)
        self.job, self.geometry, self.device = job, check_fit(llava, clip), device
        self.encoder = load_encoder(model, self.geometry, needs=needs | {"text"}, device=device)
        dtype = getattr(torch, model.generate_dtype)
        self.language_model = LanguageModel(llava, device=device, dtype=dtype)
        decoding = Decoding(max_new_tokens=job.new_tokens)
        self.engine: Engine = (
            engine.of_model(self.language_model, decoding, seed=0)
            if isinstance(engine, Transformers)
            else engine.load(model, decoding, device=device.type, seed=0)
        )
        self.loop = PlainLoop(llava, clip, self.language_model, getattr(torch, model.encode_dtype))
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
        return {
            "encode_s": encoded - started,
            "generate_s": done - encoded,
            "prefill_s": prefill_s,
            "prefill_tflops": sum(map(self._prefill_flop, lengths)) / prefill_s / 1e12,
            "visual_tokens": float(np.mean([len(kept) for kept in tokens])),
            "generated_tokens": sum(answer.generated_tokens for answer in answers),
            "peak_mib": peak,
        }

    def run_loop(self, batch: int, number: int) -> Measured:
        """Answer all requests once with the plain loop, at one batch size."""
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
            fields["embeddings"] = self.language_model.project(fields["patches"])
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

    def _prefill_flop(self, length: int) -> float:
        """Count the operations of a prompt's forward pass: two a weight and token, and causal attention.

        The embedding is a look-up, and logits are computed for one token alone: neither counts.
        """
        config = self.language_model.model.config
        weights: int = sum(weight.numel() for weight in self.language_model.model.model.layers.parameters())
        attention: int = config.num_hidden_layers * config.hidden_size * length**2
        return 2.0 * (weights * length + attention)


def measure(config: RunConfig, options: EndToEndOptions) -> EndToEndFigures:
    """Measure every arm of `config` and the loop at every batch size, round by round."""
    model, engine, arms = config.model, config.engine, config.arms
    job = Job(
        requests=options.requests,
        rounds=options.rounds,
        new_tokens=config.decoding.max_new_tokens,
        images_at_once=model.encode_batch_size,
        loop_batches=tuple(options.loop_batches),
    )
    device = compute_device(config.options.device)
    bench = Bench(model, engine, job, frozenset[str]().union(*(arm.reducer.needs for arm in arms)), device)
    runs: dict[str, Callable[[int], Measured]] = {
        f"loop, batch {batch}": partial(bench.run_loop, batch) for batch in job.loop_batches
    }
    runs |= {arm.name: partial(bench.run, arm.reducer) for arm in arms}
    bench.run(arms[0].reducer, job.rounds)  # warms up
    rounds: dict[str, list[Measured]] = {name: [] for name in runs}
    for number in range(job.rounds):
        for name, run in runs.items():
            _release_memory()
            rounds[name].append(run(number))
    figures = {name: _figures(measured, job.requests) for name, measured in rounds.items()}
    loops = {name: figure for name, figure in figures.items() if name.startswith("loop")}
    best = min(loops, key=lambda name: loops[name]["seconds_a_request"])
    for figure in figures.values():
        for name, baseline in (("first_loop", next(iter(loops))), ("best_loop", best)):
            figure[f"of_{name}"] = _ratio(figure, figures[baseline], ("encode_s", "generate_s"))
            figure[f"generate_of_{name}"] = _ratio(figure, figures[baseline], ("generate_s",))
    return {
        "model": model.name,
        "engine": type(engine).__name__.lower(),
        "dtype": model.generate_dtype,
        "requests": job.requests,
        "new_tokens": job.new_tokens,
        "best_loop": best,
        "gemm_tflops": gemm_tflops(getattr(torch, model.generate_dtype), device),
        "arms": figures,
    }


def table(figures: EndToEndFigures) -> Table:
    """Show a row for each arm and for each batch size of the loop."""
    arms = figures["arms"]
    first = next(iter(arms))
    baselines = {
        f"of {first}": "first_loop",
        f"of {figures['best_loop']}": "best_loop",
    }  # a single one, if the first loop is the best
    rows = [
        (
            name,
            arm["visual_tokens"],
            arm["seconds_a_request"],
            arm["encode_s"] / figures["requests"],
            arm["generate_s"] / figures["requests"],
            *(arm[f"of_{baseline}"] for baseline in baselines.values()),
            *(arm[f"generate_of_{baseline}"] for baseline in baselines.values()),
            arm["peak_mib"],
            f"{arm['prefill_tflops'] / figures['gemm_tflops']:.0%}" if "prefill_tflops" in arm else "",
        )
        for name, arm in arms.items()
    ]
    return Table(
        f"end to end: {figures['model']} in {figures['dtype']} by {figures['engine']}, {figures['requests']} "
        f"requests, {figures['new_tokens']} new tokens each, seconds a request",
        (
            "",
            "visual tokens",
            "seconds",
            "encode",
            "generate",
            *baselines,
            *(f"generate {of}" for of in baselines),
            "MiB",
            "prefill of peak",
        ),
        rows,
        (
            f"medians of {len(arms[first]['rounds'])} interleaved rounds; "
            "MiB: the peak above the weights while generating",
            f"measured peak of a matrix product: {figures['gemm_tflops']:.2f} TFLOP/s",
        ),
    )


def _figures(rounds: Sequence[Measured], requests: int) -> ArmFigures:
    """Compute the medians over the rounds."""
    medians = {name: median(measured[name] for measured in rounds) for name in rounds[0]}
    seconds = [(measured["encode_s"] + measured["generate_s"]) / requests for measured in rounds]
    return {**medians, "seconds_a_request": median(seconds), "rounds": list(rounds)}


def _ratio(arm: ArmFigures, baseline: ArmFigures, names: tuple[str, ...]) -> float:
    """Compute the median over rounds of an arm's seconds divided by the baseline's in the same round."""
    pairs = zip(arm["rounds"], baseline["rounds"], strict=True)
    ratios: list[float] = [
        sum(ours[name] for name in names) / sum(theirs[name] for name in names) for ours, theirs in pairs
    ]
    return median(ratios)


def _picture(index: int) -> Image.Image:
    coarse = np.random.default_rng(index).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC)


def _release_memory() -> None:
    """Return freed memory to the system, so that the next arm's peak does not reuse it unseen."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
