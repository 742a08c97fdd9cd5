"""Fixtures of the tests that need vLLM, which has a separate environment: `make test-vllm`."""

import json
import random
import shutil
from pathlib import Path

import pytest

TEMPLATE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. USER: <image>\n{question} ASSISTANT:"
)
NEW_TOKENS = 24
WIDTH = 64  # of the random checkpoint's vision tower
KEPT = (1, 2, 7, 30, 64, 122, 200, 350, 576)


def pytest_runtest_setup(item: pytest.Item) -> None:
    from pipeline.engines.vllm import installed

    if not installed():
        pytest.skip("vLLM is not installed here: make test-vllm")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random LLaVA with three heads of 32: vLLM's CPU kernels lack its four heads of 24."""
    from pipeline.models.demo.random_weights import make_random

    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    make_random(folder)
    shutil.copytree(folder / "llava", folder / "three")
    file = folder / "three" / "config.json"
    config = json.loads(file.read_bytes())
    config["text_config"] |= {"num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 32}
    file.write_text(json.dumps(config))
    return folder / "three"


@pytest.fixture(scope="session")
def model(checkpoint: Path):
    from pipeline.models.config import Model

    return Model(name="random", path=str(checkpoint), clip=str(checkpoint), template=TEMPLATE)


@pytest.fixture(scope="session")
def requests() -> list:
    """63 requests of 1 to 576 visual tokens, with questions of 1 to 40 words."""
    import torch

    from pipeline.engines.base import Request

    numbers, noise_generator = random.Random(0), torch.Generator().manual_seed(0)
    words = ["what", "color", "is", "the", "cup", "on", "a", "table", "near", "two", "people", "in", "there"]
    generated = []
    for kept in KEPT * 7:
        question = " ".join(numbers.choices(words, k=numbers.randint(1, 40)))
        tokens_KD = torch.randn(kept, WIDTH, generator=noise_generator)
        generated.append(Request(TEMPLATE.format(question=question), tokens_KD))
    numbers.shuffle(generated)
    return generated


@pytest.fixture(scope="session")
def expected(model, requests) -> list:
    """The answers of the transformers engine."""
    from pipeline.engines.transformers import Transformers
    from pipeline.models.config import Decoding

    engine = Transformers(max_batch=16).load(model, Decoding(max_new_tokens=NEW_TOKENS), device="cpu", seed=0)
    return engine.generate(requests)
