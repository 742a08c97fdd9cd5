"""Test the language model and projector of a LLaVA checkpoint against transformers."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from pipeline.models.llava import LanguageModel
from pipeline.support.errors import ConfigError

PROMPT = "A chat. USER: <image>\nWhat is shown in the picture?  ASSISTANT:"


@pytest.fixture(scope="module")
def reference(random_checkpoint):
    return LlavaForConditionalGeneration.from_pretrained(random_checkpoint / "llava").eval()


def relaid(source, target, layout, reference):
    """Copy the checkpoint `source` into another layout."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    if layout == "sharded":
        reference.save_pretrained(target, max_shard_size="300KB")
        assert len(list(target.glob("*.safetensors"))) > 3
    elif layout == "transformers 5":
        reference.save_pretrained(target, save_original_format=False)
        assert "model.language_model.norm.weight" in load_file(target / "model.safetensors")
    else:
        weights = load_file(source / "model.safetensors")
        renamed = {k.replace("vision_tower.", "vision_tower.vision_model."): v for k, v in weights.items()}
        assert "language_model.model.norm.weight" in renamed
        save_file(renamed, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.mark.parametrize("layout", ["published", "transformers 5", "sharded"])
@torch.inference_mode()
def test_every_layout_gives_the_same_weights(random_checkpoint, reference, tmp_path, layout):
    folder = relaid(random_checkpoint / "llava", tmp_path / "copy", layout, reference)
    ours = LanguageModel(folder)
    expected = reference.model.language_model.state_dict() | {"lm_head.weight": reference.lm_head.weight}
    weights = {name.removeprefix("model."): weight for name, weight in ours.model.state_dict().items()}
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    tokens_KD = torch.randn(7, 64)
    torch.testing.assert_close(ours.project(tokens_KD), reference.model.multi_modal_projector(tokens_KD))
    assert not any("vision" in name for name, _ in ours.model.named_parameters())


@torch.inference_mode()
def test_the_prompt_is_tokenised_as_the_processor_does(random_checkpoint, reference, photographs):
    ours = LanguageModel(random_checkpoint / "llava")
    processor = AutoProcessor.from_pretrained(random_checkpoint / "llava")
    for prompt in (PROMPT, "<image>", "  two  spaces <image>\n\n猫 🐈 </s> x"):
        ids = processor(text=prompt, images=photographs[0], return_tensors="pt").input_ids[0]
        is_image = ids == reference.config.image_token_id
        tokens_KD = torch.randn(576, 64)
        expected = reference.get_input_embeddings()(ids)
        expected[is_image] = reference.model.multi_modal_projector(tokens_KD)
        token_ids = ours.tokenize(prompt)
        torch.testing.assert_close(ours.embed_ids(token_ids, tokens_KD), expected)
        assert len(token_ids) - 1 == int((~is_image).sum())
        assert ids[0] == processor.tokenizer.bos_token_id


def test_fewer_tokens_and_another_dtype_are_accepted(random_checkpoint):
    ours = LanguageModel(random_checkpoint / "llava", dtype=torch.bfloat16)
    token_ids = ours.tokenize(PROMPT)
    embeds_LH = ours.embed_ids(token_ids, torch.randn(3, 64))
    assert embeds_LH.shape == (len(token_ids) - 1 + 3, 96)
    assert embeds_LH.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("removed", "part"),
    [
        ("multi_modal_projector.linear_2.bias", "projector"),
        ("language_model.model.layers.1.mlp.up_proj.weight", "language model"),
        ("language_model.lm_head.weight", "language model"),
    ],
)
def test_missing_weights_are_refused(random_checkpoint, tmp_path, removed, part):
    shutil.copytree(random_checkpoint / "llava", tmp_path / "copy")
    weights = load_file(tmp_path / "copy/model.safetensors")
    del weights[removed]
    save_file(weights, tmp_path / "copy/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=f"weights of the {part} are missing"):
        LanguageModel(tmp_path / "copy")


def test_the_output_weights_are_not_copied_for_each_row_of_a_batch(random_checkpoint):
    model = LanguageModel(random_checkpoint / "llava").model
    ids_BL = torch.arange(12).reshape(4, 3)
    with torch.inference_mode(), torch.profiler.profile(record_shapes=True) as profile:
        model(input_ids=ids_BL, logits_to_keep=1)
    products = [event.input_shapes for event in profile.events() if event.name in ("aten::mm", "aten::bmm")]
    words, width = model.get_output_embeddings().weight.shape
    assert [shapes for shapes in products if shapes[1][-1] == words] == [[[4, width], [width, words]]]
