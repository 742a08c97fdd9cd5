"""Divides a cluster's GPUs between language models and CLIPs: how many places, and what each books.

Ray chooses a node by the sum of what its GPUs have left, and looks for a single GPU only there. Eight GPUs
with 0.4 left each seem to have room for five actors of 0.6; Ray then tries that node for ever. So places are
made such that sums do not mislead: language models take 0.99 of each GPU, CLIPs the 0.01 beside them, or
both take whole GPUs. What a user sets as `num_gpus` says how many actors share a GPU, and no more.

Shares are counted in ten-thousandths of a GPU, as Ray does.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.run.cluster.booked import TINY, ActorResources, Hardware
from pipeline.support.errors import ConfigError

WHOLE = 10_000
BESIDE = 100  # of which CLIPs may book, on a GPU with a language model
_STACKED = 10  # of a CLIP that Ray may put beside nine others
GENERATE_PER_ENCODE = 4
_OWN = "CLIP has a GPU of its own, unless cluster.encode.num_gpus=0 lets it compute on the CPU"


@dataclass(frozen=True)
class Places:
    """Describes the places of a stage's actors.

    Args:
        count: of places.
        gpus: that a place takes: below 1 a part of one GPU, else whole GPUs of one node.
        share: of a GPU that an actor books, or whole GPUs.
        actors: of the stage, in all places.
        is_elastic: the stage's actors may become more. They find their GPUs as Ray packs them; `count` places
            of language models are held only until CLIPs have theirs.
    """

    count: int
    gpus: float
    share: float
    actors: int
    is_elastic: bool = False


@dataclass(frozen=True)
class GpuRoom:
    """Holds the places of the stages that use GPUs, how many GPUs no stage uses, and why.

    `idle` is 0 where the number of actors is configured: then that is what decides.
    """

    encode: Places | None
    generate: Places | None
    idle: int = 0
    reason: str = ""

    def of(self, stage: str) -> Places | None:
        """Return a stage's places; None: it uses no GPU."""
        return {"encode": self.encode, "generate": self.generate}[stage]


def divide(
    hardware: Hardware, encode: ActorResources, generate: ActorResources, spare_cpus: float
) -> GpuRoom:
    """Divide the GPUs: a language model on each, and a CLIP beside every fourth, unless configured otherwise.

    Where CLIPs have GPUs of their own, there is one for every four of the language models' GPUs, if so many
    are left.

    Args:
        encode, generate: `num_gpus` 0: the stage uses no GPU.
        spare_cpus: that tasks need on one node.

    Raises:
        ConfigError: the configured actors do not fit on the GPUs; the number that fits is named.
    """
    node_gpus = [int(gpus) for gpus in hardware.node_gpus]
    if encode.num_gpus == 0 and generate.num_gpus == 0:
        return GpuRoom(None, None)
    _require_known(encode, generate, sum(node_gpus))
    if generate.num_gpus == 0:
        default = math.ceil(hardware.gpus / GENERATE_PER_ENCODE)
        return GpuRoom(_clips(encode, hardware.gpus, WHOLE, default), None)
    each, is_beside = models_a_gpu(encode, generate)
    whole = max(1, int(generate.num_gpus or 1))  # GPUs of a language model, or of those that share one
    most = sum(gpus // whole for gpus in node_gpus)
    if encode.num_gpus != 0 and not is_beside:
        most = min(most, (hardware.gpus - _own_gpus(encode)) // whole)
    limited = generate.num_actors if generate.max_actors is None else None
    used = most if limited is None else min(most, math.ceil(limited / each))
    clips: Places | None = None
    if is_beside:
        beside = _clips(encode, hardware.gpus, BESIDE, math.ceil(used / GENERATE_PER_ENCODE))
        may_stack = generate.max_actors and encode.max_actors
        clips = replace(beside, gpus=_STACKED / WHOLE, share=_STACKED / WHOLE) if may_stack else beside
    elif encode.num_gpus != 0:
        left = hardware.gpus - used * whole
        clips = _clips(encode, left, WHOLE, min(left, math.ceil(used * whole / GENERATE_PER_ENCODE)))
    by_cpus = _fit_by_cpus(hardware, encode, generate, clips, spare_cpus, each, whole)
    with_own = clips is not None and not is_beside
    models = _models(generate, min(most * each, by_cpus), each, whole, is_beside=is_beside, with_own=with_own)
    if _start(generate) is not None:
        return GpuRoom(clips, models)
    taken = models.count * whole + (clips.count if clips and not is_beside else 0)
    by_gpus = f"an actor of generate takes {whole} GPUs of one node{f', and {_OWN}' if with_own else ''}"
    reason = f"the CPUs are enough for {by_cpus} actors of generate" if by_cpus < most * each else by_gpus
    return GpuRoom(clips, models, hardware.gpus - taken, reason)


def _require_known(encode: ActorResources, generate: ActorResources, gpus: int) -> None:
    """Refuse shares that Ray or a stage cannot take, and GPUs that the cluster does not have."""
    if (encode.num_gpus or 0) > 1:
        raise ConfigError(
            f"cluster.encode.num_gpus={encode.num_gpus:g}: CLIP runs on one GPU, or a part of it"
        )
    share = generate.num_gpus or 0.0
    if share > 1 and not float(share).is_integer():
        raise ConfigError(f"cluster.generate.num_gpus={share:g}: above 1 it must be a whole number")
    for stage, wanted in (("encode", encode), ("generate", generate)):
        if wanted.num_gpus != 0 and gpus < (wanted.num_gpus or 1):
            booked = "a GPU" if wanted.num_gpus is None else f"cluster.{stage}.num_gpus={wanted.num_gpus:g}"
            raise ConfigError(f"cluster: an actor of {stage} books {booked}, but the cluster has {gpus} GPUs")


def models_a_gpu(encode: ActorResources, generate: ActorResources) -> tuple[int, bool]:
    """Return how many language models share a GPU, and whether CLIPs sit beside them."""
    share, clip = generate.num_gpus, encode.num_gpus
    if share is None:
        return 1, clip is None or 0 < clip < 1
    if share >= 1:
        return 1, False
    beside = int((1 - (clip or 0)) / share + TINY)
    if clip != 0 and beside:
        return beside, True
    return int(1 / share + TINY), False


def _start(wanted: ActorResources) -> int | None:
    """Return the number of actors at the start; None: as many as fit."""
    return wanted.num_actors or (1 if wanted.max_actors else None)


def _own_gpus(encode: ActorResources) -> int:
    """Count the GPUs that CLIPs need where they share none with a language model."""
    per_gpu = int(1 / encode.num_gpus + TINY) if encode.num_gpus else _start(encode) or 1
    return math.ceil((_start(encode) or 1) / per_gpu)


def _clips(encode: ActorResources, gpus: int, units: int, default: int) -> Places:
    """Put CLIPs on different GPUs; if they are more than the GPUs, the same number on each that has one.

    Args:
        gpus: on which there is room for CLIPs.
        units: of each of these GPUs that CLIPs may book.
        default: number of CLIPs, if none is configured.
    """
    actors = _start(encode) or max(1, default)
    per_gpu = math.ceil(actors / gpus) if gpus > 0 else 0
    most = int(1 / encode.num_gpus + TINY) if encode.num_gpus else BESIDE
    if not 0 < per_gpu <= most:
        raise ConfigError(
            f"cluster: {actors} actors of encode do not fit on {max(gpus, 0)} GPUs, at most {most} on each; "
            "lower cluster.encode.num_actors, cluster.encode.num_gpus or cluster.generate.num_actors"
        )
    return Places(
        math.ceil(actors / per_gpu),
        units / WHOLE,
        units // per_gpu / WHOLE,
        actors,
        encode.max_actors is not None,
    )


def _models(
    generate: ActorResources, most: int, each: int, whole: int, *, is_beside: bool, with_own: bool
) -> Places:
    """Put language models on as many GPUs as they can have, or on as many as are configured.

    Args:
        is_beside, with_own: CLIPs share GPUs with them, or have others.
    """
    actors = _start(generate)
    if most < (actors or 1):
        raise ConfigError(
            f"cluster: {actors or 1} actors of generate, {f'{whole} GPUs' if whole > 1 else 'a GPU'} each"
            f"{f' for {each}' if each > 1 else ''}, do not fit beside those of encode: {most} fit; lower "
            "cluster.generate.num_actors, cluster.encode.num_actors, or what either books"
            f"{f'; {_OWN}' if with_own else ''}"
        )
    actors = actors or most
    units = WHOLE - BESIDE if is_beside else WHOLE
    share = float(whole) if whole > 1 else units // each / WHOLE
    gpus = float(whole) if whole > 1 else units / WHOLE
    is_elastic = generate.max_actors is not None
    return Places(math.ceil((most if is_elastic else actors) / each), gpus, share, actors, is_elastic)


def _fit_by_cpus(
    hardware: Hardware,
    encode: ActorResources,
    generate: ActorResources,
    clips: Places | None,
    spare_cpus: float,
    each: int,
    whole: int,
) -> int:
    """Count the language models for which the nodes with GPUs have CPUs, beside CLIPs and tasks."""
    free = list(hardware.node_cpus)
    free[free.index(max(free))] -= spare_cpus
    encoders = clips.actors if clips else encode.num_actors or len(free)
    _spread(free, hardware.node_gpus, encode.num_cpus, encoders)
    return sum(
        max(0, min(int(gpus) // whole * each, int(cpus / generate.num_cpus + TINY)))
        for cpus, gpus in zip(free, hardware.node_gpus, strict=True)
    )


def _spread(free: list[float], node_gpus: Sequence[float], cpus: float, actors: int) -> None:
    """Take the CPUs of actors from the nodes with GPUs: one after the other, as Ray's SPREAD does."""
    with_gpus = [node for node, gpus in enumerate(node_gpus) if gpus >= 1]
    for number in range(actors):
        free[with_gpus[number % len(with_gpus)]] -= cpus
