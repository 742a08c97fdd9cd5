"""Says which arguments of vLLM's EngineArgs are ours to set, and which `engine.args` may set."""

from collections.abc import Mapping

from pipeline.support.errors import ConfigError

# Arguments of vLLM's EngineArgs that no configuration changes.
ALWAYS: dict[str, object] = {
    "skip_tokenizer_init": True,
    "enable_prompt_embeds": True,
    "generation_config": "vllm",  # ignore the one in the checkpoint
    "enable_chunked_prefill": True,
    "disable_log_stats": True,
    "use_tqdm_on_load": False,
}
# Arguments with a key of their own: `engine.args` may not name them.
_KEYS = {
    "model": "model.path",
    "tokenizer": "model.path",
    "hf_config_path": "model.path",
    "revision": "model.path",
    "dtype": "model.generate_dtype",
    "seed": "seed",
    "max_num_seqs": "engine.max_num_seqs",
    "max_num_batched_tokens": "engine.max_batched_tokens",
    "enable_prefix_caching": "engine.prefix_cache",
    "enforce_eager": "engine.enforce_eager",
    "max_model_len": "engine.max_model_len",
    "tensor_parallel_size": "engine.tensor_parallel",
    "pipeline_parallel_size": "engine.tensor_parallel",
    "data_parallel_size": "cluster.generate.num_actors",
    "quantization": "engine.quantization",
    "kv_cache_dtype": "engine.kv_cache_dtype",
    "kv_cache_memory_bytes": "engine.kv_cache_gib",
    "gpu_memory_utilization": "engine.gpu_memory_utilization",
    "enable_lora": "engine.lora",
    "hf_token": "HF_TOKEN in the environment",  # this configuration is written into outputs
}
_OURS = {*ALWAYS, "distributed_executor_backend", "worker_cls", "tokenizer_mode", "trust_remote_code"}


def require_free_args(args: Mapping[str, object]) -> None:
    """Raise ConfigError if `engine.args` names an argument that has a key of its own, or must be ours."""
    for name in args:
        if name in _KEYS:
            raise ConfigError(f"engine.args.{name}: set {_KEYS[name]} instead")
        if name in _OURS:
            raise ConfigError(f"engine.args.{name}: Trimline itself sets it")
