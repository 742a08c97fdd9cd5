"""Operations are those that torch counts while the models run."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipeline.benchmark.operations import operations_of
from pipeline.models.checkpoints.fit import check_fit
from pipeline.models.checkpoints.folders import folders
from pipeline.models.config import Model
from pipeline.models.encoder import load_encoder
from pipeline.models.llava import LanguageModel
from tests.support.runs import TEMPLATE

MODEL = Model(name="random", path="demo:random/llava", clip="demo:random/clip", template=TEMPLATE)


@torch.inference_mode()
def test_operations_are_those_that_torch_counts():
    llava, clip = folders(MODEL)
    geometry = check_fit(llava, clip)
    operations = operations_of(llava, geometry)
    encoder = load_encoder(MODEL, geometry, needs=frozenset())
    language = LanguageModel(llava).model
    pixels = torch.zeros(1, geometry.image_size, geometry.image_size, 3, dtype=torch.uint8)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        encoder.encode_images(pixels, frozenset())
    # torch counts the patches' embedding, too: one layer of 3 x 14 x 14 weights a patch and width
    embedding = 2 * geometry.num_patches * 3 * 14 * 14 * operations.vision_width
    assert operations.encode() == pytest.approx(counter.get_total_flops() - embedding, rel=0.01)

    length, tokens = 50, 5
    head = 2.0 * operations.head_weights
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        made = language(input_ids=torch.ones(1, length, dtype=torch.int64), use_cache=True, logits_to_keep=1)
    # torch counts attention to later tokens, too, which a causal kernel leaves out
    later = 2.0 * operations.layers * operations.width * length**2
    norms = 2 * length * operations.width * 2 * operations.layers
    assert operations.prefill(length) == pytest.approx(
        counter.get_total_flops() - head - later + norms, rel=1e-6
    )
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for _ in range(tokens - 1):
            made = language(
                input_ids=torch.ones(1, 1, dtype=torch.int64), past_key_values=made.past_key_values
            )
    norms = 2 * (tokens - 1) * operations.width * 2 * operations.layers
    assert operations.decode(length, tokens) == pytest.approx(
        counter.get_total_flops() + head + norms, rel=1e-6
    )
