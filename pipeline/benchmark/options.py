"""Declares each benchmark's options; together they are the keys below `benchmark` in benchmark.yaml.

A field of one name in several classes is one key.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipeline.models.config import DTYPES
from pipeline.support.fields import free, require

SPLITS = ("train", "val", "test")
GEOMETRIES = ("7b", "1b", "13b", "random")


@dataclass(frozen=True, kw_only=True)
class EfficiencyOptions:
    """Configures pictures of `side` pixels with one question each, and interleaved rounds."""

    samples: int = free(640)
    side: int = free(200)
    rounds: int = free(4)

    def __post_init__(self) -> None:
        _require_rounds(self.rounds)
        require(self.samples >= 4, "benchmark.samples must be at least 4: a steady state needs some units")


@dataclass(frozen=True, kw_only=True)
class WorkersOptions(EfficiencyOptions):
    """Configures the same as for efficiency."""


@dataclass(frozen=True, kw_only=True)
class QuestionsOptions:
    """Configures the pictures of one unit, and interleaved rounds."""

    question_images: int = free(16)
    rounds: int = free(4)

    def __post_init__(self) -> None:
        _require_rounds(self.rounds)
        require(self.question_images >= 1, "benchmark.question_images must be at least 1")


@dataclass(frozen=True, kw_only=True)
class OverheadOptions:
    """Configures the number of units."""

    overhead_units: int = free(400)

    def __post_init__(self) -> None:
        require(self.overhead_units >= 10, "benchmark.overhead_units must be at least 10")


@dataclass(frozen=True, kw_only=True)
class DriverMemoryOptions:
    """Configures the number of requests of each run."""

    driver_requests: list[int] = free(default_factory=lambda: [5000, 200_000])

    def __post_init__(self) -> None:
        require(bool(self.driver_requests), "benchmark.driver_requests must not be empty")


@dataclass(frozen=True, kw_only=True)
class DriverCpuOptions:
    """Configures the numbers of actors, one run each, and the units of a run."""

    driver_actors: list[int] = free(default_factory=lambda: [2, 10, 40])
    driver_units: int = free(400)

    def __post_init__(self) -> None:
        _require_each("driver_actors", self.driver_actors, 2)
        require(self.driver_units >= 10, "benchmark.driver_units must be at least 10")


@dataclass(frozen=True, kw_only=True)
class ResumeOptions:
    """Configures the number of finished units."""

    resume_units: int = free(100_000)

    def __post_init__(self) -> None:
        require(self.resume_units >= 100, "benchmark.resume_units must be at least 100")


@dataclass(frozen=True, kw_only=True)
class ReducersOptions:
    """Configures the features' dtype, images at a time, and interleaved rounds."""

    reducer_dtype: str = free("bfloat16")
    reducer_batches: list[int] = free(default_factory=lambda: [1, 16, 64])
    rounds: int = free(4)

    def __post_init__(self) -> None:
        _require_rounds(self.rounds)
        _require_each("reducer_batches", self.reducer_batches, 1)
        require(self.reducer_dtype in DTYPES, f"benchmark.reducer_dtype: none of {DTYPES}")


@dataclass(frozen=True, kw_only=True)
class DecodeOptions:
    """Configures the pixels of the longer side of each picture, and interleaved rounds."""

    decode_sides: list[int] = free(default_factory=lambda: [336, 1024, 2048, 4032])
    rounds: int = free(4)

    def __post_init__(self) -> None:
        _require_rounds(self.rounds)
        _require_each("decode_sides", self.decode_sides, 32)


@dataclass(frozen=True, kw_only=True)
class EndToEndOptions:
    """Configures requests of one picture each, batches of the plain loop (none: no loop), and rounds.

    `arms` has the form that `arms` of compare has; null: full and trim.
    """

    requests: int = free(16)
    loop_batches: list[int] = free(default_factory=lambda: [1, 8])
    vllm_own: bool = free(True)
    arms: Any = free(None)  # YAML, read by arm_specs; OmegaConf knows no `object`
    rounds: int = free(4)

    def __post_init__(self) -> None:
        _require_rounds(self.rounds)
        require(self.requests >= 1, "benchmark.requests must be at least 1")
        require(
            all(batch >= 1 for batch in self.loop_batches), "benchmark.loop_batches must be at least 1 each"
        )


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Configures the split, the number of pictures, and more arms than full, trim and random.

    `demo_reducers` has the form that `arms` of compare has, or is `[all]`; `demo_budgets` counts tokens.
    """

    demo_split: str = free("test")
    demo_pictures: int = free(200)
    demo_reducers: Any = free(None)  # YAML, as `arms`
    demo_budgets: list[int] = free(default_factory=list)

    def __post_init__(self) -> None:
        require(
            self.demo_split in SPLITS, f"benchmark.demo_split: {self.demo_split!r} not among {list(SPLITS)}"
        )
        require(
            all(number >= 1 for number in self.demo_budgets), "benchmark.demo_budgets must be at least 1 each"
        )
        require(self.demo_pictures >= 1, "benchmark.demo_pictures must be at least 1")


@dataclass(frozen=True, kw_only=True)
class GpuCheckOptions:
    """Configures the size of the model whose speed is measured, the work of each part, and the time of all.

    `geometry` is a size of the random checkpoints, or `random`: the smallest, to try the command itself.
    """

    geometry: str = free("7b")
    check_images: int = free(32)
    check_tokens: int = free(32)
    check_s: float = free(480.0)

    def __post_init__(self) -> None:
        require(
            self.geometry in GEOMETRIES,
            f"benchmark.geometry: {self.geometry!r} not among {list(GEOMETRIES)}",
        )
        require(self.check_images >= 2, "benchmark.check_images must be at least 2: a batch is halved")
        require(self.check_tokens >= 1, "benchmark.check_tokens must be at least 1")
        require(self.check_s > 0, "benchmark.check_s must be positive")


def _require_rounds(rounds: int) -> None:
    require(rounds >= 1, "benchmark.rounds must be at least 1")


def _require_each(key: str, numbers: Collection[int], least: int) -> None:
    require(bool(numbers) and min(numbers) >= least, f"benchmark.{key} must be at least {least} each")
