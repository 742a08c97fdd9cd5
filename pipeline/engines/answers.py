"""What engines do alike: refuse what does not fit, find an answer's end, share out seconds."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.engines.base import Answer, Request
from pipeline.models.config import Decoding
from pipeline.models.prompts import Prompts


@dataclass(frozen=True)
class Asked:
    """A request that fits: its token ids, and how many tokens its prompt has, visual ones included."""

    request: Request
    token_ids: list[int]
    length: int

    @property
    def prompt_tokens(self) -> int:
        """Of text alone: one of the ids stands for the image."""
        return len(self.token_ids) - 1


def admit(
    requests: Sequence[Request], prompts: Prompts, *, max_new_tokens: int, positions: int
) -> tuple[dict[int, Asked], dict[int, Answer]]:
    """The requests that fit `positions` tokens with their answers, and why the others do not; by place."""
    fit, refused = {}, {}
    for place, request in enumerate(requests):
        token_ids = prompts.tokenize(request.prompt)
        asked = Asked(request, token_ids, len(token_ids) - 1 + len(request.tokens_KD))
        if asked.length + max_new_tokens <= positions:
            fit[place] = asked
            continue
        error = (
            f"{asked.length} input tokens and max_new_tokens {max_new_tokens} exceed the model's "
            f"{positions} positions"
        )
        refused[place] = Answer(text=None, finish_reason=None, prompt_tokens=asked.prompt_tokens, error=error)
    return fit, refused


def answered(
    asked: Asked,
    row: Sequence[int],
    prompts: Prompts,
    decoding: Decoding,
    *,
    prefill_s: float,
    decode_s: float,
) -> Answer:
    """The answer in a row of generated tokens: what stands before the first EOS, and before a stop string."""
    ids = tuple(row[: length_of(row, prompts)])
    text = prompts.tokenizer.decode(ids, skip_special_tokens=True)
    cut = min((at for at in map(text.find, decoding.stop) if at >= 0), default=None)
    return Answer(
        text=text[:cut].strip(),
        finish_reason="length" if len(ids) == len(row) and cut is None else "stop",
        prompt_tokens=asked.prompt_tokens,
        generated_tokens=len(ids),
        prefill_s=prefill_s,
        generate_s=prefill_s + decode_s,
        token_ids=ids,
    )


def length_of(row: Sequence[int], prompts: Prompts) -> int:
    """How many tokens stand before the first EOS."""
    return next((at for at, token in enumerate(row) if token in prompts.eos_token_ids), len(row))


def share(total: float, parts: Sequence[int]) -> list[float]:
    """`total` in proportion to `parts`; in equal shares if all of them are zero."""
    whole = sum(parts)
    return [total * part / whole if whole else total / len(parts) for part in parts]
