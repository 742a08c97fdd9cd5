"""Compares answers in float32 on the GPU with the CPU's, for every reducer and one engine."""

import tempfile
from pathlib import Path

from pipeline.benchmark.gpu_check.material import Rows, make_work, rows_of
from pipeline.benchmark.gpu_check.results import Claim, Measured, Sheet
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.engines.base import EngineConfig
from pipeline.engines.vllm import Vllm
from pipeline.run.config import RunConfig
from pipeline.stages.arms import Arm

_IMAGES, _QUESTIONS = 8, 2
_CACHE_GIB = 1.0


def measure(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Answer by the transformers engine on both devices."""
    return _measure(config, options, None)


def measure_vllm(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Answer by vLLM on the GPU, and by the transformers engine on the CPU: vLLM has one build a device."""
    return _measure(config, options, Vllm(kv_cache_gib=_CACHE_GIB))


def _measure(config: RunConfig, options: GpuCheckOptions, engine: EngineConfig | None) -> Measured:
    name = "vLLM" if engine else "transformers"
    images = min(_IMAGES, options.check_images)
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        work = make_work(config, options, Path(folder), images=images, questions=_QUESTIONS)
        on_cpu = rows_of(work.generate("cpu")(work.encode("cpu")(work.unit)))
        on_gpu = rows_of(work.generate("cuda", engine)(work.encode("cuda")(work.unit)))
    rows = [_row(number, arm, on_cpu, on_gpu) for number, arm in enumerate(config.arms)]
    requests = len(on_cpu) // len(config.arms)
    return Measured(
        (
            Claim(
                f"all {len(on_cpu)} answers by {name} on the GPU are the CPU's, for {len(rows)} reducers",
                all(row[1] == row[2] for row in rows),
            ),
            Claim("each reducer keeps the CPU's patches", all(row[1] == row[3] for row in rows)),
        ),
        (
            Sheet(
                f"Greedy answers by {name} in float32",
                ("", "requests", "same answer", "same patches", "patches that differ", "tokens of an answer"),
                tuple(rows),
                "The CPU's answers are those of the transformers engine.",
            ),
        ),
        {"requests": requests, "engine": name},
    )


def _row(number: int, arm: Arm, on_cpu: Rows, on_gpu: Rows) -> tuple[str, int, int, int, int, float]:
    """Count the requests of one arm whose answers and kept patches are the same on both devices."""
    pairs = [(row, on_gpu[key]) for key, row in on_cpu.items() if key[0] == number]
    answered = [(cpu, gpu) for cpu, gpu in pairs if cpu["status"] == gpu["status"] == "ok"]
    same = sum(
        cpu["prediction"] == gpu["prediction"] and cpu["finish_reason"] == gpu["finish_reason"]
        for cpu, gpu in answered
    )
    apart = [_patches_apart(cpu["kept_patches"], gpu["kept_patches"]) for cpu, gpu in answered]
    tokens = sum(cpu["generated_tokens"] for cpu, _ in answered) / max(1, len(answered))
    return arm.name, len(pairs), same, apart.count(0), sum(apart), tokens


def _patches_apart(one: bytes, other: bytes) -> int:
    """Count the bits in which two bitmaps differ."""
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
