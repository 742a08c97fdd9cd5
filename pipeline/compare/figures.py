"""The figures of comparison.json: one entry an arm, one entry a pair."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.compare.agreement import Agreement
from pipeline.compare.columns import OK, Numbers
from pipeline.compare.cost import Pricing, cost_of, seconds_per_success
from pipeline.compare.machine_time import BUSY, Clock
from pipeline.models.sizes import Shape, read_shape
from pipeline.output.manifest import Manifest
from pipeline.support.errors import ConfigError
from pipeline.support.intervals import interval, quotient

KEPT = "visual_tokens_kept"
_FULL_OR_KEPT = ("visual_tokens_full", KEPT)
_CACHED = (KEPT, "prompt_tokens", "generated_tokens")
_BINS = 48
Sums = Mapping[tuple[str, ...], np.ndarray]


def told_of(manifest: Manifest) -> dict[str, Any]:
    """What made an arm, as its run.json tells."""
    model = manifest.configuration.get("model")
    reducer = {
        name.removeprefix("reducer."): value
        for name, value in manifest.counted.items()
        if name.startswith("reducer.")
    }
    return {
        "reducer": reducer,
        "run_id": manifest.run_id,
        "fingerprint": manifest.fingerprint,
        "model": model.get("name") if isinstance(model, dict) else None,
        "engine": manifest.counted.get("engine.kind"),
    }


def tokens_of(arm: str, numbers: Numbers, sums: Sums) -> dict[str, Any]:
    """Tokens of an answered request."""
    ok, own = sums[arm, OK], numbers.arms[arm]
    kept = own[KEPT][own[OK] > 0]
    percentiles = np.percentile(kept, [5, 50, 95]) if len(kept) else [None] * 3
    full = quotient(sums[arm, "visual_tokens_full"], ok)[0]
    return {
        "visual_tokens_full": None if np.isnan(full) else float(full),
        KEPT: {
            "mean": interval(quotient(sums[arm, KEPT], ok)),
            **{
                name: None if value is None else float(value)
                for name, value in zip(("p5", "p50", "p95"), percentiles, strict=True)
            },
        },
        **{
            name: {"mean": interval(quotient(sums[arm, name], ok))}
            for name in ("prompt_tokens", "generated_tokens")
        },
    }


def seconds_of(arm: str, sums: Sums) -> dict[str, Any]:
    """Stage seconds of an answered request, as if the arm ran alone."""
    found = {name: sums[arm, name] for name in ("image_decode_s", "encode_s", "reduce_s", "prefill_s")}
    found["decode_s"] = sums[arm, "generate_s"] - sums[arm, "prefill_s"]
    found["total_s"] = _total(sums[arm, name] for name in BUSY)
    return {name: {"mean": interval(quotient(seconds, sums[arm, OK]))} for name, seconds in found.items()}


def bytes_of(arm: str, sums: Sums, shape: Shape | None, manifest: Manifest) -> dict[str, Any]:
    """Computed bytes of an answered request: its KV cache at its end, and its visual tokens on their way.

    What travels is one copy of the tokens a request: a reducer that does not read the question sends an
    image's tokens once for all its questions, which is less.
    """
    ok = float(sums[arm, OK][0])
    encode, generate = (manifest.counted.get(f"model.{stage}_dtype") for stage in ("encode", "generate"))
    if shape is None or not ok or encode is None or generate is None:
        return {"kv_cache_bytes": None, "moved_bytes": None}
    cached = sum(float(sums[arm, name][0]) for name in _CACHED)
    return {
        "kv_cache_bytes": {"mean": cached / ok * shape.kv_bytes(generate)},
        "moved_bytes": {"mean": float(sums[arm, KEPT][0]) / ok * shape.token_bytes(encode)},
    }


def time_of(arm: str, sums: Sums, clock: Clock, pricing: Pricing | None) -> dict[str, Any]:
    """Throughput, provisioned seconds and cost; start-up is in none of them but its own."""
    time, ok = clock.provisioned(arm), int(sums[arm, OK][0])
    per_success = seconds_per_success(time, sums[arm, "busy_s"], sums[arm, OK])
    return {
        "requests_per_s": interval(quotient(np.ones(len(per_success)), per_success)),
        "shared_requests_per_s": ok / time.shared if time.shared else None,
        "provisioned_seconds": {
            "alone": time.alone,
            "shared": time.shared,
            "busy": time.busy,
            "startup": time.startup,
        },
        "peak_memory_bytes": clock.peak_memory_bytes[arm],
        "peak_gpu_memory_bytes": clock.peak_gpu_memory_bytes[arm],
        "cost": None if pricing is None else cost_of(time, per_success, ok, pricing),
        "throughput": clock.throughput(arm),
    }


def histogram_of(arm: str, numbers: Numbers) -> dict[str, Any]:
    """How many answered requests kept how many visual tokens; the edges are the same for all arms."""
    most = max(float(own[name].max(initial=0)) for own in numbers.arms.values() for name in _FULL_OR_KEPT)
    step = max(1, int(np.ceil(most / _BINS)))
    edges = np.arange(0, most + step + 1, step)
    own = numbers.arms[arm]
    counts, _ = np.histogram(own[KEPT][own[OK] > 0], edges)
    return {"edges": edges.astype(int).tolist(), "counts": counts.tolist()}


def pair_of(arm: str, numbers: Numbers, sums: Sums, timed: Sums, clock: Clock) -> dict[str, Any]:
    """An arm against the baseline.

    Agreements are means over all requests. `tokens_ratio` (visual tokens kept) and `seconds_ratio` (all
    stages, as if alone) are ratios of sums over the requests that both answered; `cost_ratio` is that of
    provisioned seconds for each answered request, failures charged: a price falls out of it. `timed` are the
    sums under draws of units, for what is made of seconds.
    """
    baseline = numbers.baseline
    rows = np.full(len(sums[arm, OK]), float(numbers.count))
    cost, base_cost = (
        seconds_per_success(clock.provisioned(name), timed[name, "busy_s"], timed[name, OK])
        for name in (arm, baseline)
    )
    own, base = (_total(timed[arm, which, name] for name in BUSY) for which in ("both", "base"))
    names = {"exact": "exact_agreement", "normalised": "normalised_agreement"}
    return {
        "against": baseline,
        **{
            names.get(name, name): interval(quotient(sums[arm, "pair", name], rows))
            for name in Agreement._fields
        },
        "tokens_ratio": interval(quotient(sums[arm, "both", KEPT], sums[arm, "base", KEPT])),
        "seconds_ratio": interval(quotient(own, base)),
        "cost_ratio": interval(quotient(cost, base_cost)),
        "score_difference": None,
        "mcnemar": None,
        "worst": numbers.worst[arm].told(),
    }


def _total(figures: Iterable[np.ndarray]) -> np.ndarray:
    return np.sum(list(figures), axis=0)


def shape_of(manifest: Manifest) -> Shape | None:
    """The shape of the model that made an output, from its config.json; None if that is not at hand."""
    model = manifest.configuration.get("model")
    path = model.get("path") if isinstance(model, dict) else None
    try:
        return read_shape(path) if path else None
    except ConfigError:
        return None
