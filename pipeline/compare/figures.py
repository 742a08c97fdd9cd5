"""Computes the figures of comparison.json: one entry for each arm, one for each pair."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pipeline.compare.columns import KEPT, OK, Columns, RequestNumbers
from pipeline.compare.comparison import (
    ArmFigures,
    Histogram,
    KeptTokens,
    Mean,
    PairFigures,
    StageSeconds,
    Tokens,
)
from pipeline.compare.cost import Pricing, cost_of, seconds_per_success
from pipeline.compare.machine_time import BUSY, MachineTime
from pipeline.evaluate.score_intervals import ScoresJson
from pipeline.models.sizes import Shape, read_shape
from pipeline.output.manifest import Manifest
from pipeline.support.errors import ConfigError, RunError
from pipeline.support.intervals import Figure, interval, quotient

_FULL_OR_KEPT = ("visual_tokens_full", KEPT)
_CACHED = (KEPT, "prompt_tokens", "generated_tokens")
_BINS = 48


def arm_figures(
    arm: str,
    manifest: Manifest,
    numbers: RequestNumbers,
    sums: Columns[Figure],
    timed: Columns[Figure],
    time: MachineTime,
    *,
    shape: Shape | None,
    pricing: Pricing | None,
    scores: ScoresJson | None,
) -> ArmFigures:
    """Compute all figures of one arm; times and costs exclude start-up, which has a figure of its own.

    Args:
        sums: of the arm's columns, under the resamples of requests.
        timed: the same under the resamples of units, for figures made of seconds.
        shape: of the model, for computed bytes; None: it is not known.
        scores: the arm's scores against a dataset.
    """
    seconds, ok = time.provisioned(arm), int(timed.arms[arm][OK][0])
    per_success = seconds_per_success(seconds, timed.arms[arm]["busy_s"], timed.arms[arm][OK])
    cached, moved = _computed_bytes(sums.arms[arm], shape, manifest)
    return replace(
        made_with(manifest),
        status=dict(sorted(numbers.status[arm].items())),
        tokens=_tokens(arm, numbers, sums.arms[arm]),
        seconds=_stage_seconds(timed.arms[arm]),
        requests_per_s=interval(quotient(np.ones(len(per_success)), per_success)),
        shared_requests_per_s=ok / seconds.shared if seconds.shared else None,
        provisioned_seconds=seconds,
        peak_memory_bytes=time.peak_memory_bytes[arm],
        peak_gpu_memory_bytes=time.peak_gpu_memory_bytes[arm],
        cost=None if pricing is None else cost_of(seconds, per_success, ok, pricing),
        throughput=time.throughput(arm),
        kv_cache_bytes=cached,
        moved_bytes=moved,
        histogram=_histogram(arm, numbers),
        figures=scores,
    )


def made_with(manifest: Manifest) -> ArmFigures:
    """Return an arm's figures that come from run.json alone: reducer, its text, model, engine and run."""
    model = manifest.configuration.get("model")
    prefix = "reducer."
    reducer = {name: value for name, value in manifest.counted.items() if name.startswith(prefix)}
    clip_text = [manifest.counted.get(f"clip_text.{name}") for name in ("text", "long")]
    return ArmFigures(
        clip_text=[text for text in clip_text if text is not None] or None,
        reducer={name.removeprefix(prefix): value for name, value in reducer.items()},
        run_id=manifest.run_id,
        fingerprint=manifest.fingerprint,
        model=model.get("name") if isinstance(model, dict) else None,
        engine=manifest.counted.get("engine.kind"),
    )


def _tokens(arm: str, numbers: RequestNumbers, sums: dict[str, Figure]) -> Tokens:
    """Compute the tokens of an answered request."""
    columns, ok = numbers.arms[arm], sums[OK]
    kept = columns[KEPT][columns[OK] > 0]
    p5, p50, p95 = map(float, np.percentile(kept, [5, 50, 95])) if len(kept) else (None, None, None)
    full = float(quotient(sums["visual_tokens_full"], ok)[0])
    return Tokens(
        visual_tokens_full=None if np.isnan(full) else full,
        visual_tokens_kept=KeptTokens(interval(quotient(sums[KEPT], ok)), p5, p50, p95),
        prompt_tokens=Mean(interval(quotient(sums["prompt_tokens"], ok))),
        generated_tokens=Mean(interval(quotient(sums["generated_tokens"], ok))),
    )


def _stage_seconds(sums: dict[str, Figure]) -> StageSeconds:
    """Compute the stage seconds of an answered request, as if the arm ran alone."""
    stages = {name: sums[name] for name in ("image_decode_s", "encode_s", "reduce_s", "prefill_s")}
    stages["decode_s"] = sums["generate_s"] - sums["prefill_s"]
    stages["total_s"] = _total(sums[name] for name in BUSY)
    return StageSeconds(**{name: Mean(interval(quotient(stage, sums[OK]))) for name, stage in stages.items()})


def _computed_bytes(
    sums: dict[str, Figure], shape: Shape | None, manifest: Manifest
) -> tuple[Mean | None, Mean | None]:
    """Compute the bytes of an answered request: its final KV cache, and its visual tokens between stages.

    A copy of the tokens for each request is assumed: a reducer that does not read the question sends an
    image's tokens once for all its questions, which is less.
    """
    ok = float(sums[OK][0])
    encode, generate = (manifest.counted.get(f"model.{stage}_dtype") for stage in ("encode", "generate"))
    if shape is None or not ok or encode is None or generate is None:
        return None, None
    cached = sum(float(sums[name][0]) for name in _CACHED)
    moved = float(sums[KEPT][0])
    return Mean(cached / ok * shape.kv_bytes(generate)), Mean(moved / ok * shape.token_bytes(encode))


def _histogram(arm: str, numbers: RequestNumbers) -> Histogram:
    most = max(
        float(columns[name].max(initial=0)) for columns in numbers.arms.values() for name in _FULL_OR_KEPT
    )
    step = max(1, int(np.ceil(most / _BINS)))
    edges = np.arange(0, most + step + 1, step)
    columns = numbers.arms[arm]
    counts, _ = np.histogram(columns[KEPT][columns[OK] > 0], edges)
    return Histogram(edges.astype(int).tolist(), counts.tolist())


def pair_figures(
    arm: str, numbers: RequestNumbers, sums: Columns[Figure], timed: Columns[Figure], time: MachineTime
) -> PairFigures:
    """Compute the figures of an arm against the baseline, but for scores.

    Agreements are means over all requests. `tokens_ratio` (visual tokens kept) and `seconds_ratio` (all
    stages, as if alone) are ratios of sums over the requests that both answered; `cost_ratio` is that of
    provisioned seconds for each answered request, failures charged: a price would cancel out.

    Args:
        sums, timed: as in `arm_figures`.
    """
    pair, timed_pair = sums.pairs[arm], timed.pairs[arm]
    rows = np.full(len(sums.arms[arm][OK]), float(numbers.count))
    agreement = {name: interval(quotient(total, rows)) for name, total in pair.agreement.items()}
    seconds, base_seconds = (
        _total(side[name] for name in BUSY) for side in (timed_pair.arm, timed_pair.baseline)
    )
    cost, base_cost = (
        seconds_per_success(time.provisioned(name), timed.arms[name]["busy_s"], timed.arms[name][OK])
        for name in (arm, numbers.baseline)
    )
    return PairFigures(
        against=numbers.baseline,
        exact_agreement=agreement["exact"],
        normalised_agreement=agreement["normalised"],
        rouge_l=agreement["rouge_l"],
        chrf=agreement["chrf"],
        tokens_ratio=interval(quotient(pair.arm[KEPT], pair.baseline[KEPT])),
        seconds_ratio=interval(quotient(seconds, base_seconds)),
        cost_ratio=interval(quotient(cost, base_cost)),
        worst=numbers.worst[arm].answers(),
    )


def _total(figures: Iterable[Figure]) -> Figure:
    return np.asarray(np.sum(list(figures), axis=0))


def shape_of(manifest: Manifest) -> Shape | None:
    """Read the shape of the model that made an output from its config.json; None if that is gone."""
    model = manifest.configuration.get("model")
    path = model.get("path") if isinstance(model, dict) else None
    try:
        return read_shape(path) if path else None
    except (ConfigError, RunError):  # the latter: from the hub
        return None
