"""Each benchmark computes, waits and counts memory on the device of the run, and names no other.

The device is pretended: what is on it, what is waited for and what it holds is as on a GPU; seconds are not.
"""

import dataclasses

import pytest
import torch

from pipeline.benchmark import workers
from pipeline.benchmark.devices import gemm_tflops, peak_mib
from pipeline.benchmark.options import WorkersOptions
from pipeline.models.config import Model
from pipeline.run.config import RunConfig
from pipeline.sources.images import Images
from pipeline.stages.arms import Arm
from pipeline.support.errors import ConfigError
from tests.support.pretended_cuda import pretended_cuda
from tests.support.runs import TEMPLATE, make_config

MODEL = Model(
    name="random",
    path="demo:random/llava",
    clip="demo:random/clip",
    trim_sign=-1,
    encode_dtype="float32",
    generate_dtype="float32",
    encode_batch_size=2,
    template=TEMPLATE,
)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def config(tmp_path) -> RunConfig:
    made = make_config(tmp_path, Images(path=str(tmp_path)), tmp_path / "out", max_new_tokens=2)
    return dataclasses.replace(made, model=MODEL)


def on(config: RunConfig, device: str, *arms: Arm) -> RunConfig:
    options = dataclasses.replace(config.options, device=device)
    return dataclasses.replace(config, options=options, arms=arms)


def test_two_workers_need_two_gpus(config):
    with pretended_cuda(), pytest.raises(ConfigError, match="two GPUs"):
        workers.measure(on(config, "auto"), WorkersOptions())


def test_the_peak_of_a_device_counts_what_is_on_it():
    with pretended_cuda():
        kept = torch.zeros(1 << 20, device=CUDA)
        mib, _ = peak_mib(lambda: torch.zeros(3 << 20, device=CUDA).sum(), CUDA)
        assert mib == pytest.approx(12, abs=0.1)
        assert kept.is_cuda


def test_the_peak_of_matrix_products_waits_for_them():
    with pretended_cuda() as counts:
        assert gemm_tflops(torch.float32, CUDA, side=64, rounds=1) > 0
    assert any("synchronize" in line for line in counts.waits)
    assert gemm_tflops(torch.float32, CPU, side=64, rounds=1) > 0
