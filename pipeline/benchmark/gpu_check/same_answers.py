"""Compares answers in float32 on the GPU with the CPU's, for every reducer and one engine."""

import tempfile
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from pipeline.benchmark.gpu_check.results import Claim, Measured
from pipeline.benchmark.gpu_check.small_unit import Rows, make_work, rows_of
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.engines.base import EngineConfig
from pipeline.engines.vllm import Vllm
from pipeline.run.config import RunConfig
from pipeline.stages.arms import Arm
from pipeline.support.table import Table

_IMAGES, _QUESTIONS = 8, 2
_CACHE_GIB = 1.0
_IN = 1000


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
    rows = [_compared(number, arm, on_cpu, on_gpu) for number, arm in enumerate(config.arms)]
    apart, patches = sum(row.patches_apart for row in rows), work.geometry.num_patches * len(on_cpu)
    return Measured(
        (
            Claim(
                f"answers by {name} on the GPU are the CPU's where the same patches are kept: "
                f"{sum(row.same_answer for row in rows)} of {sum(row.same_patches for row in rows)}",
                all(row.same_answer == row.same_patches for row in rows),
            ),
            Claim(
                f"each of {len(rows)} reducers keeps the CPU's patches, but for at most 1 in {_IN:,} that "
                f"rounding puts on the other side of a limit: {apart} of {patches:,}",
                apart * _IN <= patches and all(row.answered == row.requests for row in rows),
            ),
        ),
        (
            Table(
                f"Greedy answers by {name} in float32",
                tuple(field.name.replace("_", " ") for field in fields(Compared)),
                tuple(astuple(row) for row in rows),
                ("The CPU's answers are those of the transformers engine.",),
            ),
        ),
        {"engine": name},
    )


@dataclass(frozen=True)
class Compared:
    """Counts the requests of one arm by what is the same on both devices.

    `same_answer` are those with the same patches and the same answer.
    """

    reducer: str
    requests: int
    answered: int
    same_patches: int
    same_answer: int
    patches_apart: int
    tokens_of_an_answer: float


def _compared(number: int, arm: Arm, on_cpu: Rows, on_gpu: Rows) -> Compared:
    """Compare the requests of one arm."""
    pairs = [(row, on_gpu[key]) for key, row in on_cpu.items() if key[0] == number]
    answered = [(cpu, gpu) for cpu, gpu in pairs if cpu["status"] == gpu["status"] == "ok"]
    apart = [_patches_apart(cpu["kept_patches"], gpu["kept_patches"]) for cpu, gpu in answered]
    same = [
        all(cpu[name] == gpu[name] for name in ("prediction", "finish_reason", "generated_tokens"))
        for (cpu, gpu), patches in zip(answered, apart, strict=True)
        if not patches
    ]
    tokens = sum(cpu["generated_tokens"] for cpu, _ in answered) / max(1, len(answered))
    return Compared(arm.name, len(pairs), len(answered), apart.count(0), sum(same), sum(apart), tokens)


def _patches_apart(one: bytes, other: bytes) -> int:
    """Count the bits in which two bitmaps differ."""
    return sum((a ^ b).bit_count() for a, b in zip(one, other, strict=True))
