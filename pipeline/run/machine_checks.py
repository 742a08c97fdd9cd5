"""Refuses, before Ray starts, what this machine cannot run: no GPU, too little memory, a missing package."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline.models.checkpoints.fit import Geometry
from pipeline.output.units import MAX_UNIT_BYTES, UnitLimits
from pipeline.run.cluster.resources import LOOPBACK
from pipeline.support.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run.config import RunConfig


def require_unit_fits(config: "RunConfig", geometry: Geometry) -> None:
    """Refuse limits under which a unit could become too large for one Arrow row."""
    limits = config.limits
    image = _token_bytes(config, geometry)
    pixels = limits.unit_samples * geometry.image_size**2 * 3
    requests = limits.unit_requests + limits.max_questions - 1
    tokens = sum((requests if arm.reads_request else limits.unit_samples) * image for arm in config.arms)
    for what, size in (("decoded images", pixels), ("visual tokens", tokens)):
        if size > MAX_UNIT_BYTES:
            raise ConfigError(
                f"unit_samples, unit_requests, max_questions: a unit's {what} could take {size:,} bytes, "
                f"more than {MAX_UNIT_BYTES:,}; lower them"
            )


def largest_unit(config: "RunConfig", geometry: Geometry) -> UnitLimits:
    """Compute the largest limits that `require_unit_fits` surely takes, with the run's `max_questions`."""
    tokens = _token_bytes(config, geometry) * len(config.arms)
    requests = max(1, MAX_UNIT_BYTES // tokens - config.limits.max_questions + 1)
    return UnitLimits(
        unit_samples=min(MAX_UNIT_BYTES // (geometry.image_size**2 * 3), requests),
        unit_requests=requests,
        unit_bytes=MAX_UNIT_BYTES // 2,
        max_questions=config.limits.max_questions,
    )


def _token_bytes(config: "RunConfig", geometry: Geometry) -> int:
    """Compute the bytes of an image's visual tokens, all kept."""
    element = 4 if config.model.encode_dtype == "float32" else 2
    return geometry.num_patches * geometry.vision_width * element


def require_model_room(config: "RunConfig", geometry: Geometry) -> None:
    """Refuse a model too large for this machine. On GPUs and other machines its actor checks that itself."""
    from pipeline.models.devices import torch_device

    on_this_cpu = config.cluster.address == "local" and torch_device(config.options.device).type == "cpu"
    if not on_this_cpu or not config.model.check_memory:
        return
    from pipeline.models.checkpoints.folders import folders
    from pipeline.models.footprint import of_run, require_room, room_of

    needs = frozenset().union(*(arm.reducer.needs for arm in config.arms))
    longest = geometry.num_patches + config.decoding.max_new_tokens
    parts = of_run(
        *folders(config.model),
        needs=needs,
        dtype=config.model.generate_dtype,
        tokens=longest,
        cache_gib=config.engine.kv_cache_gib,
        actors={name: config.cluster.actors(name).num_actors or 1 for name in ("encode", "generate")},
    )
    require_room(config.model, parts, *room_of("cpu"))


def require_device(config: "RunConfig") -> None:
    """Refuse device=cuda on a machine without a GPU."""
    import torch

    if (
        config.options.device == "cuda"
        and config.cluster.address == "local"
        and not torch.cuda.is_available()
    ):
        raise ConfigError("device=cuda: torch sees no GPU on this machine")


def require_metrics(config: "RunConfig") -> None:
    """Refuse metrics without Ray's extra `default`, without which Ray silently serves none."""
    options = config.options
    if options.metrics_host != LOOPBACK and (
        options.metrics_port is None or config.cluster.address != "local"
    ):
        raise ConfigError("metrics_host: needs metrics_port and cluster=local; a joined cluster has its own")
    serves_metrics = config.options.metrics_port is not None and config.cluster.address == "local"
    if serves_metrics and not (find_spec("opencensus") and find_spec("prometheus_client")):
        raise ConfigError("metrics_port: Ray's metrics need its extra: pip install 'trimline[cluster]'")


def require_engine(config: "RunConfig") -> None:
    """Check that the engine can run here; on a cluster it need not be installed on this machine."""
    if config.cluster.address == "local":
        config.engine.check(config.decoding)
