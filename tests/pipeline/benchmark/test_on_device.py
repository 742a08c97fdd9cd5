"""Each benchmark computes, waits and counts memory on the device of the run, and names no other.

The device is pretended: what is on it, what is waited for and what it holds is as on a GPU; seconds are not.
"""

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from pipeline.benchmark import demo, end_to_end, reducers, workers
from pipeline.benchmark.devices import gemm_tflops, peak_mib
from pipeline.benchmark.options import EndToEndOptions, ReducersOptions, WorkersOptions
from pipeline.benchmark.vllm_cache import bound_cache
from pipeline.engines.transformers import Transformers
from pipeline.engines.vllm import Vllm
from pipeline.models.config import Model
from pipeline.run.config import RunConfig
from pipeline.sources.images import Images
from pipeline.stages.arms import Arm
from pipeline.support.errors import ConfigError
from tests.support.pretended_cuda import pretended_cuda
from tests.support.runs import TEMPLATE, make_config
from trim import Full, Random, Reduced, Trim, VisualTokens

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


@dataclass(frozen=True)
class Seen:
    """Keeps all tokens, and notes where they and the text were."""

    needs: ClassVar[frozenset[str]] = frozenset({"text", "identity", "embeddings"})
    devices: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, x: VisualTokens) -> list[Reduced]:
        fields = (x.patches, x.text, x.identity, x.embeddings)
        self.devices.extend(field.device.type for field in fields if field is not None)
        return Full()(x)


@pytest.fixture
def config(tmp_path) -> RunConfig:
    made = make_config(tmp_path, Images(path=str(tmp_path)), tmp_path / "out", max_new_tokens=2)
    return dataclasses.replace(made, model=MODEL)


def on(config: RunConfig, device: str, *arms: Arm) -> RunConfig:
    options = dataclasses.replace(config.options, device=device)
    return dataclasses.replace(config, options=options, arms=arms)


@pytest.mark.parametrize(("device", "kind", "loops"), [("auto", "cuda", [2]), ("cpu", "cpu", [])])
def test_end_to_end_is_on_the_device(config, device, kind, loops, monkeypatch):
    monkeypatch.setattr(end_to_end, "gemm_tflops", lambda dtype, device: float(device.type == kind))
    seen = Seen()
    options = EndToEndOptions(requests=2, rounds=1, loop_batches=loops)
    with pretended_cuda() as counts:
        figures = end_to_end.measure(on(config, device, Arm("seen", seen, {})), options)
    assert set(seen.devices) == {kind}
    assert figures["gemm_tflops"] == 1
    assert len(figures["arms"]) == 1 + len(loops)
    assert end_to_end.table(figures).rows[0][0] == ("loop, batch 2" if loops else "seen")
    assert bool(counts.operations) == (kind == "cuda")
    if kind == "cuda":
        assert any("synchronize" in line for line in counts.waits), "the clock waits for the device"
        memory = [arm["peak_mib"] for arm in figures["arms"].values()]
        assert min(memory) > 1, "keys and values of 600 tokens are on the device"


def test_reducers_are_on_the_device(config, monkeypatch):
    monkeypatch.setattr(
        reducers, "vit_l", lambda dtype: torch.nn.Conv2d(3, 4, 14, dtype=dtype).requires_grad_(False)
    )
    seen = Seen()
    options = ReducersOptions(reducer_batches=[1], rounds=1)
    with pretended_cuda():
        figures = reducers.measure(on(config, "cuda", Arm("seen", seen, {})), options)
    assert set(seen.devices) == {"cuda"}
    (row,) = figures["rows"]
    assert row["ms_an_image"] > 0


@pytest.mark.demo
def test_the_demo_gives_the_cpus_figures_on_the_device():
    arms = {"full": demo.DemoArm(Full()), "trim": demo.DemoArm(Trim(sign=-1))}
    arms["random"] = demo.DemoArm(Random(num_kept=1, seed=0), follows="trim")
    options = {"split": "test", "seed": 0, "pictures": 1, "progress": lambda done: None}
    model = dataclasses.replace(MODEL, path="demo:model/llava", clip="demo:model/clip")
    on_cpu = demo.measure_arms(model, Transformers(), arms, **options)
    with pretended_cuda() as counts:
        figures = demo.measure_arms(model, Transformers(), arms, device=CUDA, **options)
    assert json.dumps(figures) == json.dumps(on_cpu)  # not a number where a kind has no question
    assert counts.operations


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


def test_vllm_leaves_room_for_the_other_models_on_its_gpu():
    with pretended_cuda(memory_bytes=80 << 30):
        bounded = bound_cache(Vllm(), MODEL, CUDA, models=3)
        assert bounded.kv_cache_gib == pytest.approx(80 / 3 - 4, abs=0.1)
        chosen = Vllm(kv_cache_gib=5)
        assert bound_cache(chosen, MODEL, CUDA, models=3) is chosen
        assert bound_cache(Transformers(), MODEL, CUDA, models=3) == Transformers()
    assert bound_cache(Vllm(), MODEL, CPU, models=3) == Vllm()
