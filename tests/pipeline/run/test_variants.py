"""Test that variants of a checkpoint are answered as transformers answers them, or refused in one line."""

import json

import pytest
import torch

from pipeline.run.prepare import prepare
from pipeline.support.errors import ConfigError
from tests.support import variants as v
from tests.support.against import answers_of, library_answers, options, write_requests
from tests.support.commands import compose

NUMBERS = torch.arange(577)
LENGTHS = {"rope_type": "linear", "factor": 2.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0] * 12, "long_factor": [1 + n / 2 for n in range(12)]
}  # fmt: skip
LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention"],
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "tie_word_embeddings": False,
}  # fmt: skip
CHUNKS = {
    "attention_chunk_size": 64, "intermediate_size_mlp": 256, "num_local_experts": 2,
    "no_rope_layers": [1, 1, 0], "interleave_moe_layer_step": 2, "floor_scale": 100, "attn_scale": 0.5,
}  # fmt: skip
MIXTRAL = v.both(v.language("Mixtral", num_local_experts=4, num_experts_per_tok=2), v.split_experts)
EXPERT = "block_sparse_moe.experts.1.w1.weight"


def rope(**scaling: object) -> v.Change:
    return v.config(text_config__rope_parameters={"rope_theta": 10000.0, **scaling})


EQUAL = {
    "plain": lambda root: None,
    "tower with a LoRA of 10 %": v.lora(0.1, "q_proj.weight", "v_proj.weight"),
    "tower with a LoRA of 1 %": v.lora(0.01, "q_proj.weight", "v_proj.weight"),
    "tower with a LoRA in the MLP": v.lora(0.03, "fc1.weight", "fc2.weight"),
    "tower tuned by 0.6 %, bfloat16": v.both(v.tuned(0.006), v.cast(torch.bfloat16, v.TOWER)),
    "tower tuned by 5 %": v.tuned(0.05),
    "LoRA in the language model": v.lora(0.1, "q_proj.weight", "v_proj.weight", within=v.LANGUAGE),
    "bfloat16": v.cast(torch.bfloat16),
    "float16": v.cast(torch.float16),
    "bfloat16 CLIP": v.cast(torch.bfloat16, part="clip"),
    "names of transformers 4": v.renamed(v.TOWER, "vision_tower.vision_model."),
    "names of transformers 5": v.both(
        v.renamed("language_model.model.", "model.language_model."),
        v.renamed("language_model.lm_head.", "lm_head."),
        v.renamed("vision_tower.", "model.vision_tower."),
        v.renamed("multi_modal_projector.", "model.multi_modal_projector."),
    ),
    "three shards": v.sharded,
    "tied at the top": v.both(v.tied, v.config(tie_word_embeddings=True)),
    "tied in text_config": v.both(v.tied, v.config(text_config__tie_word_embeddings=True)),
    "tied in both": v.both(v.tied, v.config(tie_word_embeddings=True, text_config__tie_word_embeddings=True)),
    "tied, with its output layer": v.config(tie_word_embeddings=True),
    "two processor files": v.two_processors,
    "older processor file": v.older_processor,
    "stretched squares": v.image_settings(
        do_center_crop=False, size={"height": 336, "width": 336}, crop_size=None
    ),
    "Lanczos": v.image_settings(resample=1),
    "mean 0.5": v.image_settings(image_mean=[0.5] * 3, image_std=[0.5] * 3),
    "not rescaled": v.image_settings(do_rescale=False, image_mean=[120.0] * 3, image_std=[60.0] * 3),
    "448 then 336": v.image_settings(size={"shortest_edge": 448}),
    "pad token -1": v.config(text_config__pad_token_id=-1),
    "no pad token": v.config(text_config__pad_token_id=None),
    "last layer": v.config(vision_feature_layer=-1),
    "first layer": v.config(vision_feature_layer=1),
    "third layer": v.config(vision_feature_layer=3),
    "image_token_id": lambda root: v.edit(
        root / "llava/config.json",
        image_token_id=json.loads((root / "llava/config.json").read_text())["image_token_index"],
        image_token_index=None,
    ),
    "rope linear": rope(**LENGTHS),
    "rope dynamic": rope(rope_type="dynamic", factor=2.0),
    "rope llama3": rope(**LLAMA3),
    "rope yarn": rope(**YARN),
    "rope longrope, some requests beyond": rope(**LONGROPE, original_max_position_embeddings=700),
    "rope longrope, all beyond": rope(**LONGROPE, original_max_position_embeddings=300),
    "rope longrope, passed by answers": rope(**LONGROPE, original_max_position_embeddings=614),
    "one mean for all channels": v.image_settings(image_mean=0.5, image_std=0.25),
    "do_sample in generation_config": v.generation(do_sample=True, temperature=0.2, top_p=0.9),
    "several end tokens": v.generation(eos_token_id=[2, 300, 301]),
    "stored positions": v.plus({"vision_tower.embeddings.position_ids": NUMBERS}),
    "stored frequencies": v.plus(
        {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(12)}
    ),
    "an image_newline": v.plus({"image_newline": torch.ones(96)}),
    "Mistral": v.language("Mistral", sliding_window=None),
    "Mistral, window 620": v.language("Mistral", sliding_window=620),
    "Mistral, window 100": v.language("Mistral", sliding_window=100),
    "Qwen2": v.language("Qwen2"),
    "Qwen2, window 200": v.language(
        "Qwen2", use_sliding_window=True, sliding_window=200, max_window_layers=1
    ),
    "Qwen3": v.language("Qwen3"),
    "Qwen2, tied": v.both(v.language("Qwen2"), v.tied, v.config(text_config__tie_word_embeddings=True)),
    "Gemma": v.language("Gemma", tie_word_embeddings=False),
    "Gemma2, window 64": v.language("Gemma2", sliding_window=64, tie_word_embeddings=False),
    "Gemma3, window 64": v.language("Gemma3Text", sliding_window=64, tie_word_embeddings=False),
    "Phi3, window 300": v.language("Phi3", sliding_window=300),
    "Phi3": v.language("Phi3", sliding_window=None),
    "Olmo2": v.language("Olmo2"),
    "Granite": v.language("Granite"),
    "Qwen3.5, layers with a state": v.language("Qwen3_5Text", **LINEAR),
    "Llama 4, chunks": v.language("Llama4Text", **CHUNKS),
    "Mixtral": MIXTRAL,
}

REFUSED = {
    "int8": (v.quantised("int8"), r"quantization_config \(bitsandbytes\)"),
    "fp8": (v.quantised("fp8"), r"quantization_config \(compressed-tensors\)"),
    "nf4": (v.quantised("nf4"), r"quantization_config \(bitsandbytes\)"),
    "awq": (v.quantised("awq"), r"quantization_config \(awq\)"),
    "int8, unsaid": (v.both(v.quantised("int8"), v.config(quantization_config=None)), "stored as I8"),
    "fp8, unsaid": (v.both(v.quantised("fp8"), v.config(quantization_config=None)), "stored as F8_E4M3"),
    "nf4, unsaid": (v.both(v.quantised("nf4"), v.config(quantization_config=None)), "stored as U8"),
    "awq, unsaid": (v.both(v.quantised("awq"), v.config(quantization_config=None)), "quantised weights"),
    "scales of floats": (v.scaled_floats, "weight_scale.*quantised weights"),
    "LoRA beside its weights": (
        v.plus({"language_model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(8, 96)}),
        "LoRA adapter that is not merged",
    ),
    "LoRA folder": (lambda root: (root / "llava/adapter_config.json").write_text("{}"), "LoRA adapter"),
    "experts in fp8": (v.both(MIXTRAL, v.cast(torch.float8_e4m3fn, ".experts.")), "stored as F8_E4M3"),
    "experts with scales": (
        v.both(MIXTRAL, v.plus({f"language_model.model.layers.0.{EXPERT}_scale": torch.ones(1)})),
        "weight_scale.*quantised weights",
    ),
    "an expert lacks a tensor": (v.both(MIXTRAL, v.without(EXPERT)), r"missing.*experts\.\*\.w1"),
    "more experts": (v.both(MIXTRAL, v.config(text_config__num_local_experts=3)), r"missing.*experts\.\*"),
    "a mean of words": (v.image_settings(image_mean=["a", "b", "c"]), "settings cannot be read"),
    "two projectors": (
        v.plus({"model.multi_modal_projector.linear_2.weight": torch.ones(96, 96)}),
        "one tensor of the projector",
    ),
    "two image tokens": (v.config(image_token_id=5), "image_token_id 5"),
    "<image> split": (
        lambda root: v.edit(root / "llava/tokenizer_config.json", split_special_tokens=True),
        "split_special_tokens",
    ),
    "EfficientNet's images": (
        v.image_settings(
            image_processor_type="EfficientNetImageProcessor", size={"height": 336, "width": 336},
            rescale_offset=True, do_center_crop=False,
        ),
        "does more than resize",
    ),
    "unknown tensor": (v.plus({"model.resampler.query": torch.ones(3)}), r"tensor model\.resampler"),
    "unknown tensor of CLIP": (v.plus({"text_model.x": torch.ones(3)}, "clip"), r"text_model\.x"),
    "other weights": (v.config(transformers_weights="other.safetensors"), "transformers_weights"),
    "other weights, text": (v.config(text_config__transformers_weights="x"), "transformers_weights"),
    "squares of 672": (
        v.image_settings(size={"shortest_edge": 672}, crop_size={"height": 672, "width": 672}), "672 pixels"
    ),
    "squares of 224": (
        v.image_settings(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}), "224 pixels"
    ),
    "pad token beyond": (v.config(text_config__pad_token_id=10**6), "pad_token_id is 1000000"),
    "no output layer": (v.without("lm_head"), "language model are missing.*lm_head"),
    "no norm": (v.without("layers.1.input_layernorm"), r"missing.*layers\.1\.input_layernorm"),
    "fewer layers": (v.config(text_config__num_hidden_layers=2), r"layers\.2"),
    "more layers": (v.config(text_config__num_hidden_layers=4), r"missing.*layers\.3"),
    "another width": (v.config(text_config__intermediate_size=128), "missing or misshapen"),
    "GPT-NeoX": (v.config(text_config__model_type="gpt_neox"), "weights|tensor"),
    "layer list": (v.config(vision_feature_layer=[-2, -5]), "only one layer"),
    "strategy full": (v.config(vision_feature_select_strategy="full"), "vision_feature_select_strategy"),
    "no text_config": (v.config(text_config=[1]), "text_config is no object"),
    "negative layers": (v.config(text_config__num_hidden_layers=-1), "num_hidden_layers is -1"),
    "endless layers": (v.config(text_config__num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "patches of 0": (v.config(vision_config__patch_size=0), "patch_size is 0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def requests(tmp_path_factory, photographs):
    return write_requests(tmp_path_factory.mktemp("asked"), photographs)


@pytest.mark.slow
@pytest.mark.parametrize("name", EQUAL)
def test_a_variant_is_answered_as_transformers_does(random_checkpoint, requests, tmp_path, name):
    root = v.copy_of(random_checkpoint, tmp_path / "model", EQUAL[name])
    config = compose(*options(root, requests))
    expected = library_answers(root, requests, config.model.template)
    assert len(set(expected.values())) > 2  # the answers tell requests apart
    assert answers_of(root, requests) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_variant_is_refused_in_one_line(random_checkpoint, requests, tmp_path, name):
    change, message = REFUSED[name]
    root = v.copy_of(random_checkpoint, tmp_path / "model", change)
    with pytest.raises(ConfigError, match=message) as refused:
        prepare(compose(*options(root, requests)))
    assert "\n" not in str(refused.value) and not (root / "out").exists()
