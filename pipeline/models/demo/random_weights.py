"""Makes a small LLaVA and its CLIP with random weights, in the Hugging Face layouts.

Its answers mean nothing, but everything else is real: 336 x 336 pixels, 576 patches, both CLIP towers,
tokenizers for any Unicode text, a Llama that reads the projected patches. The tests and the
`demo:random/...` names load it, without a model hub.

Plain random weights would be a poor test: attention that averages over 600 tokens gives the same answer to
every image. The scales below make attention sharp and logits wide apart, so that answers depend on the image
and the question, some end in EOS, and no greedy choice is a tie that rounding decides.

Shapes: V vocabulary, H language width.
"""

import math
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaTokenizer,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from pipeline.models.checkpoints.loading import quiet
from pipeline.models.demo.tokenizers import (
    IMAGE_PX,
    PATCH_PX,
    clip_tokenizer,
    image_processor,
    llama_tokenizer,
    llava_processor,
    special_ids,
)

LOGIT_DEVIATION = 20.0  # norm of the rows of lm_head, so the standard deviation of logits
LLAVA_SEED = 5  # of eight tried with photographs, the one with varied answers and no near ties
END = "at"  # EOS takes the place of this word: with that seed, in some four of ten answers
WORDS = """
a the an of on in with and is are to at by near next front behind under over some two three four many one
what where how which who does do color shape size number kind picture image photo scene object background
describe this briefly answer question using single word or phrase there yes no left right top bottom
red green blue yellow black white gray brown orange pink purple large small round square bright dark
person man woman child cat dog horse bird car bus train bicycle motorcycle boat plane rocket
cup coffee table chair clock page text coin brick grass gravel stone water sky moon star cloud tree flower
house street road city field river mountain room wall window door light shadow sitting standing holding
looking wearing riding running eating playing showing made old new open closed smiling wooden metal
""".split()  # noqa: SIM905 - a list literal would fill three pages
SENTENCES = [
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human's questions. USER: \nASSISTANT:",
    "What is shown in the picture? What color is the cup? How many people are there? Where is the cat?",
    "Describe the image briefly. Provide a one-sentence caption for the provided image.",
    "Answer the question using a single word or phrase. Is there a dog in the image? Yes. No.",
    " ".join(WORDS),
]


def make_random(folder: Path, seed: int = 0, *, heads: int = 4) -> None:
    """Write `folder/clip` and `folder/llava`; the same seed gives the same bytes.

    `heads`: of the language model, whose width they share; vLLM knows no heads of 24, but 3 of 32.
    """
    with quiet():
        clip = _make_clip(folder / "clip", torch.Generator().manual_seed(seed))
        _make_llava(folder / "llava", clip, heads, torch.Generator().manual_seed(seed + LLAVA_SEED))


def _make_clip(folder: Path, generator: torch.Generator) -> CLIPModel:
    tokenizer = clip_tokenizer(SENTENCES, 900)
    config = CLIPConfig(
        projection_dim=32,
        vision_config=CLIPVisionConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=IMAGE_PX,
            patch_size=PATCH_PX,
            projection_dim=32,
        ).to_dict(),
        text_config=CLIPTextConfig(
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=32,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ).to_dict(),
    )
    model = CLIPModel(config)
    scales = {
        "vision_model.embeddings.patch_embedding": 1.0,
        "vision_model.embeddings.position_embedding": 0.3,
        "text_model.embeddings.token_embedding": 1.0,
        "text_model.embeddings.position_embedding": 0.3,
        "visual_projection": 1.0,
        "text_projection": 0.25,  # the spread of metric . text, which decides how many patches are outliers
        "q_proj": 1.5,
        "k_proj": 1.5,
    }
    _randomize(model, scales, generator)
    with torch.no_grad():  # filters for edges more than brightness, or one photograph would be all outliers
        filters = model.vision_model.embeddings.patch_embedding.weight
        filters -= 0.8 * filters.mean((2, 3), keepdim=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    image_processor().save_pretrained(folder)
    return model


def _make_llava(folder: Path, clip: CLIPModel, heads: int, generator: torch.Generator) -> None:
    tokenizer = llama_tokenizer(SENTENCES, 1200)
    ids = special_ids(tokenizer)
    config = LlavaConfig(
        vision_config=clip.vision_model.config.to_dict(),
        text_config=LlamaConfig(
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=heads,
            max_position_embeddings=4096,
            vocab_size=len(tokenizer),
            **ids,
        ).to_dict(),
        image_token_index=tokenizer.get_vocab()["<image>"],
        image_seq_length=(IMAGE_PX // PATCH_PX) ** 2,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model = LlavaForConditionalGeneration(config)
    scales = {
        "embed_tokens": 1.0,
        "multi_modal_projector.linear_1": 1.5,
        "multi_modal_projector.linear_2": 1.5,
        "q_proj": 2.0,
        "k_proj": 2.0,
        "v_proj": 2.0,
        "o_proj": 1.4,
    }
    _randomize(model, scales, generator)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    _restrict_to_words(model.lm_head.weight, tokenizer)
    model.generation_config = GenerationConfig(**ids)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    llava_processor(tokenizer).save_pretrained(folder)


def _restrict_to_words(lm_head_VH: torch.Tensor, tokenizer: LlamaTokenizer) -> None:
    """Let only whole words be answered, with equal norms, and EOS instead of `END`."""
    vocab = tokenizer.get_vocab()
    allowed = {vocab["▁" + word] for word in WORDS if "▁" + word in vocab} | {tokenizer.eos_token_id}
    allowed -= {vocab["▁" + END]}
    with torch.no_grad():
        lm_head_VH *= LOGIT_DEVIATION / lm_head_VH.norm(dim=1, keepdim=True)
        lm_head_VH[tokenizer.eos_token_id] = lm_head_VH[vocab["▁" + END]]
        lm_head_VH[sorted(set(vocab.values()) - allowed)] = 0


def _randomize(model: nn.Module, scales: dict[str, float], generator: torch.Generator) -> None:
    """Draw normal weights of deviation scale / sqrt(fan in), embeddings of scale; keep norms and biases."""
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            scale = next((value for part, value in scales.items() if part in name), 1.0)
            if name.endswith("class_embedding"):
                weight.normal_(0.0, scale, generator=generator)
            elif weight.ndim < 2:
                continue
            else:
                fan_in = 1 if id(weight) in embeddings else math.prod(weight.shape[1:])
                weight.normal_(0.0, scale / math.sqrt(fan_in), generator=generator)
