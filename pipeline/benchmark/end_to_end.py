"""Measures seconds a request, from pixels to answers, of Trimline's arms and of the plain transformers loop.

All arms answer the same requests in one process and take turns round by round; if the engine is
`transformers`, they share one set of weights. All compute on the device of the run, and each clock waits for
it. Pictures are decoded beforehand. CLIP with reduction, and generation, are timed separately. The loop runs
at batch 1, as TRIM's paper measured it, and at others; its best is the least median. With engine=vllm, vLLM's
own LLaVA answers, too. Each round has new pictures: an engine with a prefix cache would know the last ones.
"""

import ctypes
import gc
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any, TypedDict

import torch

from pipeline.benchmark.bench import Bench, Job, Measured
from pipeline.benchmark.devices import gemm_tflops
from pipeline.benchmark.options import EndToEndOptions
from pipeline.benchmark.own_llava import NAME, own_arm
from pipeline.benchmark.vllm_cache import bound_cache
from pipeline.models.devices import torch_device
from pipeline.run.config import RunConfig
from pipeline.support.table import Table

ArmFigures = dict[str, Any]  # JSON: the medians of Measured, ratios to baselines, and `rounds`


class EndToEndFigures(TypedDict):
    """Holds the figures of every arm; `best_loop` is the plain loop with the least median.

    `baselines` names the arm of each ratio: the first and the best loop, or without a loop the first arm.
    """

    model: str
    engine: str
    dtype: str
    requests: int
    new_tokens: int
    best_loop: str | None
    baselines: dict[str, str]
    gemm_tflops: float
    arms: dict[str, ArmFigures]
    notes: list[str]


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
    device = torch_device(config.options.device)
    models = 1 + options.vllm_own + bool(job.loop_batches)
    engine = bound_cache(engine, model, device, models=models)
    bench = Bench(model, engine, job, frozenset[str]().union(*(arm.reducer.needs for arm in arms)), device)
    runs: dict[str, Callable[[int], Measured]] = {
        f"loop, batch {batch}": partial(bench.run_loop, batch) for batch in job.loop_batches
    }
    runs |= {arm.name: partial(bench.run, arm.reducer) for arm in arms}
    own, own_note = own_arm(model, engine, bench) if options.vllm_own else (None, None)
    runs |= {NAME: own.run} if own else {}
    rounds: dict[str, list[Measured]] = {name: [] for name in runs}
    try:
        bench.run(arms[0].reducer, job.rounds)  # warms up
        if own:
            own.run(job.rounds)
        for number in range(job.rounds):
            for name, run in runs.items():
                _release_memory()
                rounds[name].append(run(number))
    finally:
        if own:
            own.close()
    figures = {name: _figures(measured, job.requests) for name, measured in rounds.items()}
    loops = {name: figure for name, figure in figures.items() if name.startswith("loop")}
    best = min(loops, key=lambda name: loops[name]["seconds_a_request"], default=None)
    baselines = {"first_arm": arms[0].name}
    if best is not None:
        baselines = {"first_loop": next(iter(loops)), "best_loop": best}
    if own:
        baselines["vllm_own"] = NAME
    for figure in figures.values():
        for name, baseline in baselines.items():
            figure[f"of_{name}"] = _ratio(figure, figures[baseline], ("encode_s", "generate_s"))
            figure[f"generate_of_{name}"] = _ratio(figure, figures[baseline], ("generate_s",))
    return {
        "model": model.name,
        "engine": type(engine).__name__.lower(),
        "dtype": model.generate_dtype,
        "requests": job.requests,
        "new_tokens": job.new_tokens,
        "best_loop": best,
        "baselines": baselines,
        "gemm_tflops": gemm_tflops(getattr(torch, model.generate_dtype), device),
        "arms": figures,
        "notes": [own_note] if own_note else [],
    }


def table(figures: EndToEndFigures) -> Table:
    """Show a row for each arm and for each batch size of the loop."""
    arms = figures["arms"]
    first, peak = next(iter(arms)), figures["gemm_tflops"]
    # a single one, if the first loop is the best
    baselines = {f"of {arm}": name for name, arm in figures["baselines"].items()}
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
            *(f"{arm[name] / peak:.0%}" if name in arm else "" for name in ("prefill_tflops", "tflops")),
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
            "all of peak",
        ),
        rows,
        (
            f"medians of {len(arms[first]['rounds'])} interleaved rounds; "
            "MiB: the peak above the weights while generating",
            f"measured peak of a matrix product: {peak:.2f} TFLOP/s",
            *figures["notes"],
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


def _release_memory() -> None:
    """Return freed memory to the system, so that the next arm's peak does not reuse it unseen."""
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
