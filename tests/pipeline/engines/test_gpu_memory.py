"""Test what the engines take of a GPU's memory, with a GPU of made-up size and 7B's configuration."""

import json
import re
import shutil
import struct
from contextlib import ExitStack

import pytest

from pipeline.engines.gpu_memory import require_budget
from pipeline.engines.transformers import Transformers
from pipeline.engines.vllm import Vllm
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Decoding, Model
from pipeline.models.footprint import GIB
from pipeline.support.errors import ConfigError
from tests.support.pretended_cuda import pretended_cuda

SIZES = {  # of LLaVA-1.5-7B's language model
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "num_hidden_layers": 32,
    "head_dim": 128,
}
KV_BYTES = 32 * 2 * 4096 * 2  # of a token
WEIGHTS = 6_738_415_616


@pytest.fixture
def model(random_checkpoint, tmp_path):
    """A LLaVA with 7B's configuration, and as many weights in a file without data."""
    folder = tmp_path / "llava"
    shutil.copytree(random_checkpoint / "llava", folder)
    file = folder / "config.json"
    config = json.loads(file.read_bytes())
    config["text_config"] |= SIZES
    file.write_text(json.dumps(config))
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    entry = {"dtype": "F16", "shape": [WEIGHTS], "data_offsets": [0, 2 * WEIGHTS]}
    header = json.dumps({name: entry}).encode()
    with (folder / "model.safetensors").open("wb") as weights:
        weights.write(struct.pack("<Q", len(header)) + header)
        weights.truncate(8 + len(header) + 2 * WEIGHTS)
    clip = str(random_checkpoint / "clip")
    return Model(
        name="7B", path=str(folder), clip=clip, template="<image>{question}", generate_dtype="bfloat16"
    )


@pytest.fixture
def gpu():
    """Give the GPU so many GiB, free and in all."""
    with ExitStack() as stack:

        def of(free, total):
            stack.enter_context(pretended_cuda(total * GIB, used_bytes=(total - free) * GIB))

        yield of


def test_batches_that_do_not_fit_are_refused_with_the_budget_that_fits(model, gpu):
    gpu(22, 24)
    with pytest.raises(
        ConfigError, match=r"engine\.token_budget=16384: .*engine\.token_budget=\d+ fits"
    ) as told:
        Transformers().load(model, Decoding(max_new_tokens=64), device="cuda", seed=0)
    budget = int(re.search(r"token_budget=(\d+) fits", str(told.value))[1])
    room = 22 * GIB - 2 * WEIGHTS
    assert 0.6 * room < (budget + 64 * 64) * KV_BYTES < 0.8 * room, "some is left for CLIP, CUDA and passes"
    sizes = {"folders": folders(model), "max_batch": 64}
    require_budget(model, Decoding(max_new_tokens=64), token_budget=budget, **sizes)
    with pytest.raises(ConfigError):
        require_budget(model, Decoding(max_new_tokens=64), token_budget=budget + 2, **sizes)


def test_answers_that_leave_no_room_for_prompts_name_the_batch_size(model, gpu):
    gpu(22, 24)
    with pytest.raises(ConfigError, match=r"a smaller engine\.max_batch needs less"):
        Transformers().load(model, Decoding(max_new_tokens=512), device="cuda", seed=0)


@pytest.mark.parametrize(("free", "total", "least"), [(79, 80, 0.93), (40, 80, 0.44), (139, 140, 0.96)])
def test_vllm_takes_what_is_free(model, gpu, free, total, least):
    gpu(free, total)
    arguments = Vllm().arguments(model, folders(model), on_gpu=True)
    assert least < arguments["gpu_memory_utilization"] <= (free - 2) / total
    given = Vllm(gpu_memory_utilization=0.5)
    arguments = given.arguments(model, folders(model), on_gpu=True)
    assert arguments["gpu_memory_utilization"] == 0.5


def test_weights_that_vllm_quantizes_are_not_refused_by_their_size_before(model, gpu):
    gpu(13, 24)
    arguments = Vllm(quantization="fp8").arguments(model, folders(model), on_gpu=True)
    assert 0.4 < arguments["gpu_memory_utilization"] <= 11 / 24


def test_vllm_refuses_weights_that_do_not_fit_unless_gpus_share_them(model, gpu):
    gpu(13, 24)
    with pytest.raises(ConfigError, match=r"12\.6 GiB of weights .*engine\.tensor_parallel"):
        Vllm().arguments(model, folders(model), on_gpu=True)
    assert (
        Vllm(tensor_parallel=2).arguments(model, folders(model), on_gpu=True)["gpu_memory_utilization"] > 0.4
    )
