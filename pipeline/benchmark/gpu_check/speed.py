"""Measures TRIM against all tokens at a real model's size with random weights, on one engine a process."""

import dataclasses
import shutil
from collections.abc import Sequence
from typing import Any

from pipeline.benchmark import end_to_end
from pipeline.benchmark.gpu_check.results import Claim, Measured
from pipeline.benchmark.gpu_check.small_unit import small_model
from pipeline.benchmark.options import EndToEndOptions, GpuCheckOptions
from pipeline.engines import vllm
from pipeline.engines.base import EngineConfig, Setting
from pipeline.engines.transformers import Transformers
from pipeline.engines.vllm import Vllm
from pipeline.models.checkpoints.folders import folders
from pipeline.models.checkpoints.language_only import language_only
from pipeline.models.config import Decoding, Model
from pipeline.run.config import RunConfig
from pipeline.stages.arms import Arm
from pipeline.support.cache import private_cache
from pipeline.support.errors import RunError
from pipeline.support.table import Table
from pipeline.support.words import number, percent
from trim import Full, Trim

_KEPT = 0.21  # of the tokens, as TRIM's paper keeps them on the average
_ROUNDS = 2
_IMAGES_AT_ONCE = 32
_LOOP = 8  # requests at a time in the plain loop


def make_weights(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Make the checkpoint of random weights in the cache, or find it there; vLLM's copy, too, where it is."""
    llava, _ = folders(_model(config, options.geometry))
    if vllm.installed():
        language_only(llava)
    size = sum(file.stat().st_size for file in llava.rglob("*") if file.is_file())
    left = shutil.disk_usage(private_cache()).free
    row = (f"LLaVA of size {options.geometry}", size / 2**30, left / 2**30)
    return Measured((), (Table("Weights", ("", "GiB", "GiB left on the disk"), (row,)),), {"bytes": size})


def measure(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Measure the transformers engine, beside the plain loop."""
    return _measure(config, options, Transformers(), loops=[_LOOP])


def measure_vllm(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Measure vLLM."""
    return _measure(config, options, Vllm().settled(Setting(on_gpu=True)))


def measure_peer(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Measure vLLM beside its own LLaVA, which users would run instead; the ratio is to that.

    Raises:
        RunError: vLLM's own cannot run here.
    """
    measured = _measure(config, options, Vllm().settled(Setting(on_gpu=True)), own=True)
    figures = measured.figures["end_to_end"]
    if "vllm_own" not in figures["baselines"]:
        raise RunError("; ".join(figures["notes"]))
    ratio = figures["arms"]["trim"]["of_vllm_own"]
    claim = Claim(f"TRIM takes less time than vLLM's own LLaVA: {number(ratio)} of it", ratio < 1)
    return dataclasses.replace(measured, claims=(claim,))


def _model(config: RunConfig, geometry: str) -> Model:
    """Return a model of random weights in bfloat16."""
    model = small_model(config, batch=_IMAGES_AT_ONCE)
    if geometry != "random":
        name = f"random_{geometry}"
        model = dataclasses.replace(model, name=name, path=f"demo:{name}/llava", clip=f"demo:{name}/clip")
    return dataclasses.replace(model, encode_dtype="bfloat16", generate_dtype="bfloat16")


def _measure(
    config: RunConfig,
    options: GpuCheckOptions,
    engine: EngineConfig,
    *,
    loops: Sequence[int] = (),
    own: bool = False,
) -> Measured:
    """Measure both arms over the same pictures, two for each that the other parts take."""
    trim = Trim(keep_ratio=_KEPT, sign=config.model.trim_sign)
    measured = end_to_end.measure(
        dataclasses.replace(
            config,
            model=_model(config, options.geometry),
            engine=engine,
            arms=(Arm("full", Full(), {}), Arm("trim", trim, {})),
            decoding=Decoding(max_new_tokens=options.check_tokens),
        ),
        EndToEndOptions(
            requests=2 * options.check_images, rounds=_ROUNDS, loop_batches=list(loops), vllm_own=own
        ),
    )
    full, trimmed = (measured["arms"][name] for name in ("full", "trim"))
    ratio = trimmed["seconds_a_request"] / full["seconds_a_request"]
    peak = measured["gemm_tflops"]
    table = Table(
        f"Speed of {measured['model']} in {measured['dtype']} by {measured['engine']}",
        (
            "",
            "visual tokens",
            "images a second",
            "new tokens a second",
            "MiB while generating",
            "prefill of peak",
            "all of peak",
        ),
        tuple((name, *_cells(arm, peak)) for name, arm in measured["arms"].items()),
        (
            f"{measured['requests']} requests of one image and at most {measured['new_tokens']} new tokens; "
            f"medians of {_ROUNDS} interleaved rounds. The measured peak of a matrix product is {peak:.0f} "
            "TFLOP/s. Of vLLM's memory only what is in this process counts.",
        ),
    )
    claim = Claim(f"TRIM takes less time than all tokens: {number(ratio)} of it", ratio < 1)
    return Measured((claim,), (table,), {"end_to_end": measured, "trim_of_full": ratio})


def _cells(arm: dict[str, Any], peak: float) -> tuple[Any, ...]:
    seconds = arm["encode_s"] + arm["generate_s"]
    shares = (percent(arm[name] / peak) if name in arm else "" for name in ("prefill_tflops", "tflops"))
    return (
        arm["visual_tokens"],
        1 / arm["seconds_a_request"],
        arm["generated_tokens"] / seconds,
        arm["peak_mib"],
        *shares,
    )
