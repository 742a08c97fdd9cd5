"""Test that GPUs which torch cannot use are refused in one line, before a model is loaded."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.models.devices import torch_device
from pipeline.run.cluster.booked import Hardware
from pipeline.run.cluster.gpus import SeenGpus, ask_torch, occupied, require_usable
from pipeline.run.flow import stage_arguments
from pipeline.support.errors import ConfigError
from tests.support.commands import compose, trimline

NONE = SeenGpus(
    version="2.13.0", platform="12.8", error=None, names=(), capabilities=(), faults=(), free_bytes=()
)
H100 = replace(
    NONE,
    names=("NVIDIA H100",) * 2,
    capabilities=((9, 0),) * 2,
    faults=(None,) * 2,
    free_bytes=(1 << 36,) * 2,
)
T4 = replace(H100, names=("NVIDIA H100", "Tesla T4"), capabilities=((9, 0), (7, 5)))
BFLOAT16 = {"model.encode_dtype": "bfloat16", "model.generate_dtype": "bfloat16"}


def refused(seen, counted=2, dtypes=BFLOAT16):
    with pytest.raises(ConfigError) as raised:
        require_usable("node7", counted, seen, dtypes)
    text = str(raised.value)
    assert "\n" not in text and "node7" in text
    return text


def test_usable_gpus_are_no_error():
    require_usable("node7", 2, H100, BFLOAT16)
    require_usable("node7", 2, T4, {"model.encode_dtype": "float16", "model.generate_dtype": "float32"})


@pytest.mark.parametrize(
    ("seen", "cause"),
    [
        (replace(NONE, version="2.13.0+cpu", platform=None), "its torch 2.13.0+cpu is a build for CPUs"),
        (
            replace(NONE, error="The NVIDIA driver on your system is too old (found version 11040). Please"),
            "driver is too old for it (The NVIDIA driver on your system is too old (found version 11040)",
        ),
        (
            replace(NONE, error="Found no NVIDIA driver on your system. Please"),
            "the node has no NVIDIA driver",
        ),
        (replace(NONE, error="CUDA unknown error"), "finds none: CUDA unknown error"),
    ],
)
def test_the_cause_is_said_in_words(seen, cause):
    text = refused(seen, dtypes={})
    assert "Ray counts 2 GPUs, but" in text and "device=cpu" in text
    assert cause in text


def test_fewer_gpus_than_ray_counts_and_a_broken_one_are_refused():
    assert "Ray counts 4 GPUs, but its torch 2.13.0 sees 2" in refused(H100, counted=4)
    broken = replace(H100, faults=(None, "CUDA error: uncorrectable ECC error encountered"))
    assert "its GPU 1, NVIDIA H100, cannot be used: CUDA error: uncorrectable ECC" in refused(broken)


def test_bfloat16_on_an_old_gpu_names_the_setting_that_works():
    text = refused(T4)
    assert "GPU 1, Tesla T4, has compute capability 7.5" in text
    assert text.endswith("use model.encode_dtype=float16 model.generate_dtype=float16")
    assert refused(T4, dtypes={"model.generate_dtype": "bfloat16"}).endswith(
        "use model.generate_dtype=float16"
    )


TORCH = """
from types import SimpleNamespace
__version__ = "2.13.0+cu128"
version = SimpleNamespace(cuda="12.8", hip=None)
def zeros(*_, device):
    if device == "cuda:1":
        raise RuntimeError("CUDA error: out of memory\\nadvice")
cuda = SimpleNamespace(
    is_available=lambda: True,
    device_count=lambda: 2,
    get_device_name=lambda gpu: f"GPU {gpu}",
    get_device_capability=lambda gpu: (8, gpu),
    mem_get_info=lambda gpu: (100 + gpu, 200),
)
"""


def test_a_gpu_that_somebody_else_uses_is_named():
    gib = 1 << 30
    free = replace(H100, free_bytes=(79 * gib, None))
    taken = replace(T4, free_bytes=(9 * gib, 15 * gib))
    assert occupied([("a", free), ("b", replace(taken, free_bytes=(78 * gib, 15 * gib)))]) is None
    text = occupied([("a", free), ("b", taken)])
    assert text and "GPU 0 of node b, NVIDIA H100, has 9.0 of 79.0 GiB" in text
    assert "node a" not in text and "T4" not in text


def test_torch_is_asked_in_a_process_of_its_own(tmp_path, monkeypatch):
    assert SeenGpus.from_json(ask_torch()).lacking(1) is not None  # tests run with the build for CPUs
    (tmp_path / "torch.py").write_text(TORCH)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert SeenGpus.from_json(ask_torch()) == SeenGpus(
        version="2.13.0+cu128",
        platform="12.8",
        error=None,
        names=("GPU 0", "GPU 1"),
        capabilities=((8, 0), (8, 1)),
        faults=(None, "CUDA error: out of memory"),
        free_bytes=(100, 101),
    )
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart is missing')")
    with pytest.raises(RuntimeError, match="ImportError: libcudart is missing"):
        ask_torch()


def test_a_stage_computes_on_what_it_books():
    config = compose("cluster=ray", "cluster.encode.num_gpus=0")
    eight = Hardware((64.0,), (8.0,))
    filled = replace(config, cluster=config.cluster.on(eight, config.options.device))
    arguments = stage_arguments(filled, SimpleNamespace(geometry=None, model_of=lambda config: config.model))
    assert {stage: of_stage["device"] for stage, of_stage in arguments.items()} == {
        "encode": "cpu",
        "generate": "cuda",
    }
    with pytest.raises(ConfigError, match=r"device=cuda: torch .* sees no GPU on the node"):
        torch_device("cuda")


@pytest.mark.slow
def test_gpus_that_only_ray_counts_end_the_command_before_a_model_is_loaded(tmp_path):
    made = (
        "source.path=demo:pictures",
        f"output={tmp_path}/out",
        "cluster.num_gpus=64",
        "cluster.num_cpus=64",
    )
    done = trimline("annotate", *made)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1 and "Ray counts 64 GPUs, but its torch " in done.stderr
    assert not list((tmp_path / "out" / "data").glob("*"))
