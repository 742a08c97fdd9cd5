"""Counts how often the host waits for the GPU while it encodes, by reducer, and while it generates."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity

from pipeline.benchmark.gpu_check.results import Claim, Measured
from pipeline.benchmark.gpu_check.small_unit import Work, make_work
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.run.config import RunConfig
from pipeline.stages.arms import Arm
from pipeline.support.errors import RunError
from pipeline.support.table import Table

_IMAGES, _MANY = 4, 3  # a batch of images whose questions are one batch, too
_MOST_A_BATCH = 6
# What the profiler calls the functions of CUDA in which the host waits.
_WAITS = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy"}


def measure(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Count the waits of one batch of images with one question each, and with more.

    Raises:
        RunError: the profiler does not see waits on this machine.
    """
    _require_counts()
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        images = min(_IMAGES, options.check_images)
        one, many = (
            make_work(config, options, Path(folder) / str(questions), images=images, questions=questions)
            for questions in (1, _MANY)
        )
        rows = [_row(one, many, arm, images) for arm in config.arms]
        encoded = one.encode("cuda")(one.unit)
        generate = one.generate("cuda")
        generate(encoded)  # warms up
        tokens = options.check_tokens * len(config.arms)
        a_token = count_waits(lambda: generate(encoded)) / tokens
    torch.cuda.synchronize()
    return Measured(
        (
            Claim("a further request costs no wait", all(row[2] == 0 for row in rows)),
            Claim(
                f"a batch costs at most {_MOST_A_BATCH} waits", all(row[1] <= _MOST_A_BATCH for row in rows)
            ),
        ),
        (
            Table(
                "Waits of the host for the GPU while encoding",
                ("", "a batch", "a further request"),
                tuple(rows),
                (
                    f"A batch of {images} images with 1 and with {_MANY} questions each. While generating, "
                    f"transformers waits some {a_token:.1f} times a token of a batch.",
                ),
            ),
        ),
        {"images": images, "generate_waits_a_token": a_token},
    )


def count_waits(work: Callable[[], object]) -> int:
    """Count the calls of CUDA in which the host waited during `work`, those of the profiler left out."""
    return _profiled(work) - _profiled(lambda: None)


def _profiled(work: Callable[[], object]) -> int:
    with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profile:
        work()
    return sum(event.count for event in profile.key_averages() if event.key in _WAITS)


def _require_counts() -> None:
    """Refuse a profiler that does not see a known number of further waits."""
    number = torch.zeros((), device="cuda")

    def read(times: int) -> None:
        for _ in range(times):
            number.item()

    read(1)
    few, more = (count_waits(partial(read, times)) for times in (3, 13))
    if more - few != 10:
        raise RunError(
            f"torch.profiler saw {more - few} of 10 waits: it may lack the right to trace CUDA here"
        )


def _row(one: Work, many: Work, arm: Arm, images: int) -> tuple[str, int, float]:
    """Count an arm's waits: of a batch, and of each further request of the same images."""
    encode = one.encode("cuda", arm)
    waits = []
    for work in (one, many):
        encode(work.unit)  # warms up
        waits.append(count_waits(partial(encode, work.unit)))
    return arm.name, waits[0], (waits[1] - waits[0]) / (images * (_MANY - 1))
