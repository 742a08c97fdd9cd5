"""Provides what the engines share: check prompt lengths, cut answers, divide seconds among requests."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline.engines.base import Answer, Request
from pipeline.models.config import Decoding
from pipeline.models.prompts import Prompts, TokenizerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class EncodedRequest:
    """Holds a request that fits the model, with its prompt's token ids.

    `length` counts the prompt's tokens, visual ones included; among `token_ids` one id stands for the image.
    """

    request: Request
    token_ids: list[int]
    length: int

    @property
    def prompt_tokens(self) -> int:
        """The number of text tokens, without the id that stands for the image."""
        return len(self.token_ids) - 1


def admit(
    requests: Sequence[Request], prompts: Prompts, *, max_new_tokens: int, positions: int
) -> tuple[dict[int, EncodedRequest], dict[int, Answer]]:
    """Encode the requests that fit the model, and refuse the others.

    Args:
        positions: tokens that the model takes, those of the answer included.

    Returns:
        The encoded requests, and the answers (with `error`) of the refused ones, both by index in `requests`.
    """
    fitting, refused = {}, {}
    for index, request in enumerate(requests):
        try:
            token_ids = prompts.tokenize(request.prompt)
        except TokenizerError as error:
            refused[index] = no_answer(EncodedRequest(request, [0], 0), "failed", str(error))
            continue
        encoded = EncodedRequest(request, token_ids, len(token_ids) - 1 + len(request.tokens_KD))
        if encoded.length + max_new_tokens <= positions:
            fitting[index] = encoded
            continue
        too_long = (
            f"{encoded.length} input tokens and max_new_tokens {max_new_tokens} exceed the model's "
            f"{positions} positions"
        )
        refused[index] = no_answer(encoded, "bad_question", too_long)
    return fitting, refused


def no_answer(encoded: EncodedRequest, status: Literal["bad_question", "failed"], error: str) -> Answer:
    """Make the answer of a request that has none."""
    return Answer(
        text=None, finish_reason=None, prompt_tokens=encoded.prompt_tokens, error=error, status=status
    )


def not_finite(encoded: EncodedRequest, step: int) -> Answer:
    """Make the answer of a request whose scores were nan or infinite at a step of the answer."""
    error = f"the model's scores for token {step + 1} of the answer are not finite (nan or infinite)"
    return no_answer(encoded, "failed", error)


def make_answer(
    encoded: EncodedRequest,
    generated_ids: Sequence[int],
    prompts: Prompts,
    decoding: Decoding,
    *,
    stopped: bool,
    prefill_s: float,
    decode_s: float,
) -> Answer:
    """Make the answer from generated token ids: the text before the first EOS and before any stop string.

    Args:
        stopped: a stop string ended the answer. It need not be in the text, which lacks special tokens and
            the blank with which SentencePiece begins.
    """
    ids = tuple(generated_ids[: tokens_before_eos(generated_ids, prompts)])
    text = prompts.tokenizer.decode(list(ids), skip_special_tokens=True)
    assert isinstance(text, str), "one row of ids is one text"
    cut = min((position for position in map(text.find, decoding.stop) if position >= 0), default=None)
    return Answer(
        text=text[:cut].strip(),
        finish_reason="stop" if stopped or cut is not None or len(ids) < len(generated_ids) else "length",
        prompt_tokens=encoded.prompt_tokens,
        generated_tokens=len(ids),
        prefill_s=prefill_s,
        generate_s=prefill_s + decode_s,
        token_ids=ids,
    )


def stop_test(tokenizer: "PreTrainedTokenizerBase", stop: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Make a function that tells whether token ids hold a stop string, as transformers' criterion does.

    It looks at all that was generated: the blank before the first word and the text of special tokens, too.
    """

    # decoding drops the blank that a text begins with: let it begin with another word
    before = tokenizer("a", add_special_tokens=False)["input_ids"]

    def decoded(ids: Sequence[int]) -> str:
        text = tokenizer.decode([*before, *ids], clean_up_tokenization_spaces=False)
        assert isinstance(text, str), "one row of ids is one text"
        return text

    begin = len(decoded([]))

    def stopped(ids: Sequence[int]) -> bool:
        text = decoded(ids)[begin:] if stop else ""
        return any(string in text for string in stop)

    return stopped


def tokens_before_eos(ids: Sequence[int], prompts: Prompts) -> int:
    """Count the tokens before the first EOS; all of them if there is none."""
    return next((index for index, token in enumerate(ids) if token in prompts.eos_token_ids), len(ids))


def share(total: float, weights: Sequence[int]) -> list[float]:
    """Divide `total` in proportion to `weights`; equally if all of them are zero."""
    whole = sum(weights)
    return [total * weight / whole if whole else total / len(weights) for weight in weights]
