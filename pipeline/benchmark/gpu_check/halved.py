"""Checks that batches which find no memory are done in halves, with the same results."""

import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import torch

from pipeline.benchmark.devices import peak_mib
from pipeline.benchmark.gpu_check.results import Claim, Measured
from pipeline.benchmark.gpu_check.small_unit import Work, make_work, rows_of
from pipeline.benchmark.options import GpuCheckOptions
from pipeline.run.config import RunConfig
from pipeline.support.table import Table

_LEFT = 0.6  # of what a whole batch takes: half of one fits, all of one does not
_QUESTIONS = 2
_DEVICE = torch.device("cuda")
_MIB = 2**20
_WORDS = {True: "yes", False: "no"}
Units = tuple[pa.Table, pa.Table | None]  # what came of all memory, and of too little


def measure(config: RunConfig, options: GpuCheckOptions) -> Measured:
    """Encode and generate one unit with all memory, then with too little for its batches."""
    images = options.check_images
    with tempfile.TemporaryDirectory(prefix="trimline-") as folder:
        work = make_work(config, options, Path(folder), images=images, questions=_QUESTIONS, batch=images)
        encoding, encoded = _encode(work)
        generate = work.generate("cuda")
        generating, answered = _both(lambda: generate(encoded[0]))
    kept = _same(encoded, "kept_patches"), _same(answered, "prediction")
    table = Table(
        "Memory taken away",
        ("", "MiB of a whole batch", "MiB left to it", "same as before"),
        (("encode", *encoding, _WORDS[kept[0]]), ("generate", *generating, _WORDS[kept[1]])),
        (
            f"A batch of {images} images, and of {images * _QUESTIONS} requests. What is left is set by "
            "torch.cuda.set_per_process_memory_fraction.",
        ),
    )
    return Measured(
        (
            Claim("images whose batch finds no memory are encoded in halves, to the same patches", kept[0]),
            Claim("requests whose batch finds no memory are answered in halves, by the same words", kept[1]),
        ),
        (table,),
    )


def _both(work: Callable[[], pa.Table]) -> tuple[tuple[float, float], Units]:
    """Do the work with all memory, then with too little for its batches.

    Returns the MiB that it takes and those that were left to it, and what it returned both times; None if it
    found no memory.
    """
    work()  # libraries take memory of their own at the first time
    taken, before = peak_mib(work, _DEVICE)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved(_DEVICE) / _MIB + _LEFT * taken
    whole = torch.cuda.get_device_properties(_DEVICE).total_memory / _MIB
    torch.cuda.set_per_process_memory_fraction(room / whole, _DEVICE)
    after: pa.Table | None = None
    try:
        after = work()
    except torch.OutOfMemoryError:
        gc.collect()  # what holds the batch
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, _DEVICE)
    return (taken, _LEFT * taken), (before, after)


def _encode(work: Work) -> tuple[tuple[float, float], Units]:
    """Encode with all memory and with too little; the towers are gone afterwards."""
    arms = work.config.arms
    encode = work.encode("cuda", next((arm for arm in arms if arm.name == "full"), arms[0]))
    return _both(lambda: encode(work.unit))


def _same(units: Units, column: str) -> bool:
    """Tell whether the requests of both units are answered alike: none failed, and equal in a column."""
    if units[1] is None:
        return False
    before, after = rows_of(units[0]), rows_of(units[1])
    pairs = [(row, after[key]) for key, row in before.items()]
    return all(
        one["status"] == other["status"] == "ok" and one[column] == other[column] for one, other in pairs
    )
