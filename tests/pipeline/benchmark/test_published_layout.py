"""Test the published layout that vLLM's own LLaVA is given: all weights, under the published names."""

import torch
from safetensors.torch import load_file

from pipeline.benchmark.own_llava import own_arm
from pipeline.benchmark.published_layout import write_published
from pipeline.engines.transformers import Transformers
from pipeline.models.llava import LanguageModel


def test_a_checkpoint_keeps_its_weights_under_published_names(random_checkpoint, tmp_path):
    source = random_checkpoint / "llava"
    write_published(source, tmp_path)
    before = [load_file(file) for file in source.glob("*.safetensors")]
    after = load_file(tmp_path / "model.safetensors")
    assert len(before) == 1 and len(after) == len(before[0])
    prefixes = {name.split(".")[0] for name in after}
    assert prefixes == {"language_model", "multi_modal_projector", "vision_tower"}
    assert {name.split(".")[1] for name in after if name.startswith("vision_tower")} == {"vision_model"}
    assert {file.name for file in source.iterdir()} == {file.name for file in tmp_path.iterdir()}
    copy, original = LanguageModel(tmp_path), LanguageModel(source)
    for name, weight in original.model.state_dict().items():
        assert torch.equal(copy.model.state_dict()[name], weight)
    assert torch.equal(copy.projector.linear_1.weight, original.projector.linear_1.weight)


def test_other_engines_have_no_arm_of_vllms_own():
    assert own_arm(None, Transformers(), None) == (None, None)
