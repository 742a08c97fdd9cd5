"""Declares the content of comparison.json, and reads it back."""

import dataclasses
import types
from dataclasses import dataclass, field
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pipeline.compare.machine_time import Provisioned
from pipeline.evaluate.score_intervals import ScoresJson
from pipeline.support.intervals import Interval

COMPARISON_VERSION = 1
Json = Any  # parsed JSON, whose form `_read` checks
Record = TypeVar("Record")


@dataclass(frozen=True)
class Mean:
    """Holds the mean of a quantity over answered requests; computed ones have no interval."""

    mean: Interval | float | None = None


@dataclass(frozen=True)
class KeptTokens:
    """Holds the visual tokens kept of an answered request: mean and percentiles."""

    mean: Interval | None = None
    p5: float | None = None
    p50: float | None = None
    p95: float | None = None


@dataclass(frozen=True)
class Tokens:
    """Holds the tokens of an answered request; `visual_tokens_full` is a mean, too."""

    visual_tokens_full: float | None = None
    visual_tokens_kept: KeptTokens = KeptTokens()
    prompt_tokens: Mean = Mean()
    generated_tokens: Mean = Mean()


@dataclass(frozen=True)
class StageSeconds:
    """Holds the seconds of an answered request by stage, as if the arm ran alone."""

    image_decode_s: Mean = Mean()
    encode_s: Mean = Mean()
    reduce_s: Mean = Mean()
    prefill_s: Mean = Mean()
    decode_s: Mean = Mean()
    total_s: Mean = Mean()


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Holds what a million answers cost as if the arm ran alone, and what they cost as it ran.

    Args:
        startup_seconds, startup_cost: of starting once, which is in no other figure.
    """

    currency: str = ""
    price_per_hour: float | None = None
    hardware: str = ""
    per_million: Interval | None = None
    shared_per_million: float | None = None
    startup_seconds: float | None = None
    startup_cost: float | None = None


@dataclass(frozen=True)
class Histogram:
    """Counts the answered requests by visual tokens kept; the edges are the same for all arms."""

    edges: list[int]
    counts: list[int]


@dataclass(frozen=True)
class McNemar:
    """Holds McNemar's exact test of paired scores.

    Args:
        b: units that only the baseline has right.
        c: units that only the other arm has right.
        p: the probability, under a fair coin, of a split of b + c at least as uneven.
    """

    b: int
    c: int
    p: float


@dataclass(frozen=True, kw_only=True)
class WorstAnswer:
    """Holds a request whose answer is among the least similar to the baseline's."""

    key: str
    sample_key: str = ""
    question: str = ""
    baseline: str = ""
    prediction: str = ""
    rouge_l: float | None = None


@dataclass(frozen=True, kw_only=True)
class ArmFigures:
    """Holds the figures of one arm; None: not known.

    Args:
        reducer: its settings, as conf/reducer names them.
        clip_text: the values of clip_text.text and clip_text.long; None also if the reducer reads no text.
        requests_per_s: as if alone; `shared_requests_per_s` as the arms ran, common work counted once.
        peak_memory_bytes, peak_gpu_memory_bytes: of each stage's process.
        throughput: pairs of seconds since the start and requests answered by then.
        kv_cache_bytes, moved_bytes: computed, of an answered request.
        figures: its scores against a dataset.
    """

    reducer: dict[str, Json] | None = None
    clip_text: list[str] | None = None
    run_id: str | None = None
    fingerprint: str | None = None
    model: str | None = None
    engine: str | None = None
    status: dict[str, int] = field(default_factory=dict)
    tokens: Tokens = Tokens()
    seconds: StageSeconds = StageSeconds()
    requests_per_s: Interval | None = None
    shared_requests_per_s: float | None = None
    provisioned_seconds: Provisioned | None = None
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    peak_gpu_memory_bytes: dict[str, int] = field(default_factory=dict)
    cost: Cost | None = None
    throughput: list[list[float]] = field(default_factory=list)
    kv_cache_bytes: Mean | None = None
    moved_bytes: Mean | None = None
    histogram: Histogram | None = None
    figures: ScoresJson | None = None

    @property
    def scores(self) -> dict[str, Interval]:
        """The arm's scores by name; empty if it was not scored."""
        return (self.figures or {}).get("figures") or {}


@dataclass(frozen=True, kw_only=True)
class PairFigures:
    """Holds the figures of one arm against the baseline; None: not defined.

    Args:
        tokens_ratio, seconds_ratio: of sums over the requests that both answered.
        cost_ratio: of the provisioned seconds of an answered request, failures charged.
        score_difference, figure_differences: arm less baseline; the first is of the metric's main figure.
    """

    against: str
    exact_agreement: Interval | None = None
    normalised_agreement: Interval | None = None
    rouge_l: Interval | None = None
    chrf: Interval | None = None
    tokens_ratio: Interval | None = None
    seconds_ratio: Interval | None = None
    cost_ratio: Interval | None = None
    score_difference: Interval | None = None
    mcnemar: McNemar | None = None
    worst: list[WorstAnswer] = field(default_factory=list)
    figure_differences: dict[str, Interval] | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Holds the content of comparison.json, or a single run's figures in the same form.

    Args:
        baseline: the arm with which the others are compared; None: a single run.
        interleaved: whether the arms shared their processes; None: not known.
        pairs: the other arms against the baseline.
    """

    schema_version: int = COMPARISON_VERSION
    source: str
    requests: int
    baseline: str | None
    interleaved: bool | None = None
    bootstrap: dict[str, float] = field(default_factory=dict)
    arms: dict[str, ArmFigures]
    pairs: dict[str, PairFigures] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Json]:
        """Return the content of comparison.json."""
        tree = dataclasses.asdict(self)
        for pair in tree["pairs"].values():
            if pair["figure_differences"] is None:
                del pair["figure_differences"]  # the file has this key only where a dataset was given
        return tree

    @classmethod
    def from_json(cls, tree: Json) -> "Comparison":
        """Read a comparison, also of an older version, whose missing figures are not known.

        Raises:
            TypeError, ValueError, KeyError: it is not of this form.
        """
        return _read(cls, tree)


def _read(kind: type[Record], tree: Json) -> Record:
    """Make a dataclass of a JSON object with its fields; unknown keys are skipped."""
    if not isinstance(tree, dict):
        raise TypeError(f"{kind.__name__}: an object is expected")
    types_of = get_type_hints(kind)
    names = [item.name for item in dataclasses.fields(cast(Any, kind)) if item.name in tree]
    return kind(**{name: _value(types_of[name], tree[name]) for name in names})


def _value(kind: Json, tree: Json) -> Json:
    """Convert a field's JSON to dataclasses, also in lists and dictionaries; keeps other values."""
    origin: object = get_origin(kind)
    if origin in (Union, types.UnionType):
        if tree is None:
            return None
        kind = next((option for option in get_args(kind) if dataclasses.is_dataclass(option)), kind)
    if dataclasses.is_dataclass(kind):
        return _read(cast(type[Json], kind), tree)
    if origin is list and dataclasses.is_dataclass(get_args(kind)[0]):
        return [_value(get_args(kind)[0], item) for item in tree or ()]
    if origin is dict:
        if not isinstance(tree or {}, dict):
            raise TypeError("an object is expected")
        return {name: _value(get_args(kind)[1], item) for name, item in (tree or {}).items()}
    return tree
