"""Makes the demo checkpoints' small tokenizers and image processor, in CLIP's and LLaVA-1.5's layouts."""

import json
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPImageProcessorPil, CLIPTokenizer, LlamaTokenizer, LlavaProcessor

IMAGE_PX = 336
PATCH_PX = 14


def image_processor() -> CLIPImageProcessorPil:
    """Make CLIP's image processor for squares of IMAGE_PX."""
    side = {"height": IMAGE_PX, "width": IMAGE_PX}
    return CLIPImageProcessorPil(size={"shortest_edge": IMAGE_PX}, crop_size=side)


def clip_tokenizer(sentences: list[str], size: int) -> CLIPTokenizer:
    """Train CLIP's byte-level BPE; every byte is a token, with and without the end-of-word mark."""
    template = CLIPTokenizer().backend_tokenizer
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters += [letter + "</w>" for letter in letters]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = template.normalizer
    tokenizer.pre_tokenizer = template.pre_tokenizer
    # Special tokens get the first ids; otherwise the letters' order, and so ties between merges, would
    # change from run to run.
    trainer = trainers.BpeTrainer(
        vocab_size=size, end_of_word_suffix="</w>", special_tokens=letters, show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    pieces, merges = _pieces(tokenizer)
    tokens = [
        *pieces,
        "<|startoftext|>",
        "<|endoftext|>",
    ]  # the end last: older CLIPs look for the highest id
    return CLIPTokenizer(vocab=_ids(tokens), merges=merges, model_max_length=77)


def llama_tokenizer(sentences: list[str], size: int, split_punctuation: bool = False) -> LlamaTokenizer:
    """Train Llama's BPE with byte fallback, and LLaVA's `<image>` and `<pad>` as added tokens.

    `split_punctuation` keeps letters and punctuation in separate pieces, which few sentences would merge.
    """
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=True)
    tokenizer.pre_tokenizer = words
    if split_punctuation:
        marks = pre_tokenizers.Split(Regex(r"[?.,:'\n]"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, marks])
    trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    pieces, merges = _pieces(tokenizer)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    llama = LlamaTokenizer(
        vocab=_ids(tokens), merges=merges, pad_token="<pad>", add_bos_token=True, model_max_length=4096
    )
    llama.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return llama


def special_ids(tokenizer: LlamaTokenizer) -> dict[str, Any]:  # ints, unpacked among arguments of other types
    """Return the ids of the tokens that begin, end and pad, by their names in configurations."""
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


def llava_processor(tokenizer: LlamaTokenizer) -> LlavaProcessor:
    """Make LLaVA-1.5's processor: the patches without CLS, one `<image>` for all of them."""
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor(),
        tokenizer,
        patch_size=PATCH_PX,
        vision_feature_select_strategy="default",
        image_token="<image>",
        num_additional_image_tokens=1,
    )


def _pieces(
    tokenizer: Tokenizer,
) -> tuple[list[str], Any]:  # pairs, which CLIPTokenizer takes and does not declare
    """Return the trained vocabulary in order of its ids, and the merges."""
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(pair) for pair in model["merges"]]


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}
