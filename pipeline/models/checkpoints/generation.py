"""Reads what a checkpoint asks of decoding beyond greedy search, and which tokens end an answer.

It says so in generation_config.json, or, without one, in config.json, as transformers 5.23 reads it. The keys
and their defaults are those of its GenerationConfig.
"""

from dataclasses import dataclass, field
from pathlib import Path

from pipeline.models.checkpoints.files import Json, read_config, read_json
from pipeline.models.config import Decoding
from pipeline.support.errors import ConfigError

# Keys that change no answer here: tokens and lengths that are decided elsewhere, what is returned, and
# settings of beams or of a second model.
_HARMLESS = frozenset(
    (
        *("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"),
        *("max_length", "max_new_tokens", "max_time", "num_return_sequences", "is_assistant", "low_memory"),
        *("use_cache", "cache_implementation", "cache_config", "return_legacy_cache", "prefill_chunk_size"),
        *("output_attentions", "output_hidden_states", "output_scores", "output_logits"),
        *("return_dict_in_generate", "compile_config", "disable_compile"),
        *("length_penalty", "num_assistant_tokens", "num_assistant_tokens_schedule"),
        *("assistant_confidence_threshold", "assistant_lookbehind", "target_lookbehind"),
        *("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash"),
    )
)
# Keys that matter only where tokens are sampled -> the value that changes nothing.
_SAMPLED: Json = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": None, "typical_p": 1.0}
_TOP_K = 50  # if the file samples and does not say
# Keys that change the scores of tokens, and are done as transformers does -> the value that changes nothing.
_SCORES: Json = {
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
    "min_length": 0,
    "bad_words_ids": None,
    "suppress_tokens": None,
}
# Other keys -> the value that changes nothing.
_NOT_DONE: Json = {
    "num_beams": 1,
    "num_beam_groups": 1,
    "penalty_alpha": 0,
    "early_stopping": False,
    "diversity_penalty": 0.0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
}


@dataclass(frozen=True)
class Choice:
    """Says how the next token is chosen.

    Args:
        sampled: settings of `_SAMPLED`; empty for greedy search. Its temperature is above 0.
        scores: settings of `_SCORES` that are not neutral.
    """

    sampled: Json = field(default_factory=dict)
    scores: Json = field(default_factory=dict)


def choice_of(decoding: Decoding, folder: Path) -> Choice:
    """Return how a run chooses tokens: as it says itself, or as the checkpoint in `folder` says.

    Raises ConfigError for what the checkpoint asks and Trimline does not do.
    """
    if not decoding.from_checkpoint:
        greedy = decoding.temperature == 0
        return Choice({} if greedy else {"temperature": decoding.temperature, "top_p": decoding.top_p})
    file, settings = _settings(folder)
    asked = asked_of(settings)
    for key in asked.keys() - _SAMPLED.keys() - _SCORES.keys() - {"do_sample"}:
        raise ConfigError(
            f"decoding.from_checkpoint: {key}={asked[key]!r} in {file} is not "
            "supported; remove it there, or set decoding.from_checkpoint=false"
        )
    sampled = {}
    if settings.get("do_sample"):
        sampled = {
            "top_k": _TOP_K,
            **{key: settings[key] for key in _SAMPLED if settings.get(key) is not None},
        }
    return Choice(sampled, {key: asked[key] for key in asked if key in _SCORES})


def ignored_settings(decoding: Decoding, folder: Path) -> str | None:
    """Return one line on what a checkpoint asks of decoding and a run does not do; None if it is nothing."""
    file, settings = _settings(folder)
    asked = {} if decoding.from_checkpoint else asked_of(settings)
    if not asked:
        return None
    listed = ", ".join(f"{key}={value}" for key, value in sorted(asked.items()))
    return (
        f"{file} asks for {listed}, which this run does not do: its decoding.* "
        "decide; decoding.from_checkpoint=true decodes as the checkpoint says"
    )


def asked_of(settings: Json) -> Json:
    """Keep the keys of a generation_config.json that would change answers of greedy search."""
    neutral = {**_SAMPLED, **_SCORES, **_NOT_DONE}
    samples = bool(settings.get("do_sample"))
    return {
        key: value
        for key, value in settings.items()
        if key not in _HARMLESS
        and (samples or key not in _SAMPLED)
        and value is not None
        and value is not False
        and value != neutral.get(key)
    }


def end_tokens(folder: Path, default: int | list[int] | None) -> tuple[tuple[int, ...], str | None]:
    """Read the tokens that end an answer; returns a line, too, if transformers would take none of them.

    Args:
        default: of the language model's configuration, taken where the checkpoint's settings name none.

    Raises:
        ConfigError: no token is named, or something else than tokens.
    """
    file, settings = _settings(folder)
    named = settings.get("eos_token_id")
    tokens = default if named is None else named
    tokens = tokens if isinstance(tokens, list) else [tokens]
    if tokens in ([], [None]):
        raise ConfigError(f"{folder}: neither generation_config.json nor config.json names an eos_token_id")
    if not all(type(token) is int and token >= 0 for token in tokens):
        raise ConfigError(f"{file}: eos_token_id is {named!r}, no token")
    note = None
    if named is None:
        note = (
            f"{file} names no eos_token_id: answers end at the language model's "
            f"({', '.join(map(str, tokens))}); transformers' generate would not end them"
        )
    return tuple(tokens), note


def decoding_keys() -> frozenset[str]:
    """List all settings of decoding that transformers knows."""
    from transformers import GenerationConfig

    return frozenset(GenerationConfig().to_dict())  # type: ignore[no-untyped-call]  # transformers has no type here


def _settings(folder: Path) -> tuple[Path, Json]:
    """Read the settings of decoding; returns the file that holds them, too."""
    file = folder / "generation_config.json"
    if file.exists():
        return file, read_json(file)
    config = read_config(folder)
    text = config.get("text_config")
    parts = (text if isinstance(text, dict) else {}, config)  # what the second says wins
    keys = decoding_keys()
    settings = {key: part[key] for part in parts for key in keys if part.get(key) is not None}
    return folder / "config.json", settings
