"""Test the vLLM engine's settings: defaults by device, what counts, and what is refused."""

import os

import pytest

from pipeline.engines.base import Setting
from pipeline.engines.vllm import Vllm
from pipeline.engines.vllm_engine import let_memory_be_shared
from pipeline.run.cluster.worker_environment import worker_environment
from pipeline.support.errors import ConfigError

EARLIER = {"kind": "Vllm", "max_num_seqs": 64, "max_batched_tokens": 8192, "prefix_cache": True}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (Setting(on_gpu=False), (64, 2048, True)),
        (Setting(on_gpu=False, shares_images=False), (64, 2048, True)),
        (Setting(on_gpu=True), (256, 16384, True)),
        (Setting(on_gpu=True, shares_images=False), (256, 16384, False)),
        (Setting(on_gpu=True, shares_images=False, earlier=EARLIER), (64, 8192, True)),
        (Setting(on_gpu=True, earlier={"kind": "Transformers"}), (256, 16384, True)),
    ],
)
def test_defaults_follow_from_the_device_or_from_the_output(setting, expected):
    engine = Vllm().settled(setting)
    assert (engine.max_num_seqs, engine.max_batched_tokens, engine.prefix_cache) == expected
    assert engine.settled(Setting(on_gpu=not setting.on_gpu)) == engine
    given = Vllm(max_num_seqs=20000, prefix_cache=False).settled(setting)
    assert (given.max_num_seqs, given.max_batched_tokens, given.prefix_cache) == (20000, 20000, False)


def test_new_fields_leave_the_fingerprint_of_earlier_outputs_as_it_is():
    counted = Vllm().settled(Setting(on_gpu=False, earlier=EARLIER)).counted()
    assert counted == {
        **{name: value for name, value in EARLIER.items() if name != "kind"},
        **{"enforce_eager": None, "max_model_len": None},
    }
    changed = Vllm(tensor_parallel=2, quantization="fp8", kv_cache_dtype="fp8", args={"swap_space": 1})
    assert changed.settled(Setting(on_gpu=True)).counted().items() >= {
        *{"tensor_parallel": 2, "quantization": "fp8", "kv_cache_dtype": "fp8"}.items()
    }
    assert changed.settled(Setting(on_gpu=True)).counted()["args"] == {"swap_space": 1}


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("max_num_seqs", r"engine\.max_num_seqs"),
        ("tensor_parallel_size", r"engine\.tensor_parallel"),
        ("model", r"model\.path"),
        ("hf_token", "HF_TOKEN in the environment"),
        ("enable_prompt_embeds", "Trimline itself"),
        ("distributed_executor_backend", "Trimline itself"),
    ],
)
def test_an_argument_with_a_key_of_its_own_is_refused(name, hint):
    with pytest.raises(ConfigError, match=rf"engine\.args\.{name}: .*{hint}"):
        Vllm(args={name: 1})


def test_settings_become_arguments_of_vllm(random_checkpoint):
    folders = (random_checkpoint / "llava", None)
    engine = Vllm(
        tensor_parallel=2,
        quantization="fp8",
        kv_cache_dtype="fp8_e5m2",
        gpu_memory_utilization=0.5,
        args={"max_logprobs": 3, "block_size": 64},
    ).settled(Setting(on_gpu=True))
    arguments = engine.arguments(None, folders, on_gpu=True)
    expected = {
        **{"tensor_parallel_size": 2, "quantization": "fp8", "kv_cache_dtype": "fp8_e5m2"},
        **{"max_num_batched_tokens": 16384, "enforce_eager": False, "enable_prefix_caching": True},
        **{"max_logprobs": 3, "block_size": 64, "gpu_memory_utilization": 0.5},
    }
    assert arguments.items() >= expected.items()
    assert "kv_cache_memory_bytes" not in arguments
    on_cpu = Vllm().settled(Setting(on_gpu=False)).arguments(None, folders, on_gpu=False)
    assert (on_cpu["block_size"], on_cpu["enforce_eager"]) == (32, True)
    assert on_cpu["kv_cache_memory_bytes"] == 4 << 30
    assert not {"quantization", "kv_cache_dtype", "gpu_memory_utilization"} & on_cpu.keys()


@pytest.mark.parametrize("given", [None, "max_split_size_mb:512"])
def test_the_workers_of_one_model_can_share_memory(monkeypatch, given):
    """Only what a run gives its actors is taken away."""
    name = "PYTORCH_CUDA_ALLOC_CONF"
    for variable in (name, "PYTORCH_ALLOC_CONF"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, given or worker_environment({})["env_vars"][name])
    let_memory_be_shared()
    assert os.environ.get(name) == given
