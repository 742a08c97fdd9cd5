"""Writes Llama's tokenizer as a tokenizer.json, from one or from the original SentencePiece model.

transformers 5 reads a `tokenizer.model` in two ways, and for a folder whose config.json says `llava` it takes
the one without a space before the first word (seen with 5.23), which gives other ids than the model's. Here
the pieces are SentencePiece's own and every text begins with a space, as in the slow tokenizer that LLaVA's
code uses; texts on either side of an added token are tokenised separately. With `"legacy": false` in
tokenizer_config.json only the first of them begins with a space (huggingface/transformers#24565), unless it
has one of its own, as in transformers' own conversion.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pipeline.models.checkpoints.files import Json, read_json
from pipeline.support.errors import ConfigError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_SPACE = "▁"
_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6  # kinds of pieces, sentencepiece_model.proto
_BPE = 2  # TrainerSpec.ModelType in the same file
_ATOMIC = (_UNKNOWN, _CONTROL, _BYTE)  # never merged from other pieces


def write_tokenizer(
    folder: Path, target: Path, config: Json, added: Sequence[str] = (), settings: Json | None = None
) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json into `target`; returns the tokenizer.

    Args:
        folder: the checkpoint, with a tokenizer.json or a tokenizer.model.
        config: of the language model, for its bos_token_id and eos_token_id.
        added: further special tokens.
        settings: of tokenizer_config.json; with them, a SentencePiece model's listed tokens are added, too.

    Raises ConfigError if there is no tokenizer, or it cannot be read.
    """
    file = folder / "tokenizer_config.json"
    tokenizer = _read(folder, config, settings)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in added])
    tokenizer.save(str(target / "tokenizer.json"))
    length = read_json(file).get("model_max_length") if file.is_file() else None
    special = {
        f"{name}_token": tokenizer.id_to_token(config[f"{name}_token_id"])
        for name in ("bos", "eos")
        if config.get(f"{name}_token_id") is not None
    }
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **special}
    if length is not None:
        content["model_max_length"] = length
    (target / "tokenizer_config.json").write_text(json.dumps(content, indent=1))
    return tokenizer


def _read(folder: Path, config: Json, settings: Json | None) -> Tokenizer:
    whole, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file():
        try:
            return Tokenizer.from_file(str(whole))
        except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
            raise ConfigError(f"{whole} is no tokenizer: {error}") from None
    if not pieces.is_file():
        raise ConfigError(f"{folder} lacks a tokenizer (tokenizer.json or tokenizer.model)")
    tokenizer = _from_pieces(pieces, config, settings or {})
    if settings is not None:
        _add_tokens(tokenizer, folder, settings)
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, folder: Path, settings: Json) -> None:
    """Add the tokens that a checkpoint lists beside its SentencePiece model, under their own numbers."""
    file = folder / "added_tokens.json"
    listed: dict[int, Json] = {
        number: {"content": token, "special": True}
        for token, number in (read_json(file) if file.is_file() else {}).items()
    }
    listed |= {int(number): token for number, token in settings.get("added_tokens_decoder", {}).items()}
    for number, token in sorted(listed.items()):
        flags = {name: bool(token.get(name)) for name in ("lstrip", "rstrip", "single_word", "normalized")}
        added = AddedToken(token["content"], special=bool(token.get("special")), **flags)
        (tokenizer.add_special_tokens if added.special else tokenizer.add_tokens)([added])
        if (there := tokenizer.token_to_id(token["content"])) != number:
            raise ConfigError(
                f"{folder}: {token['content']} is token {number}, but its tokenizer makes it {there}"
            )


def _from_pieces(file: Path, config: Json, settings: Json) -> Tokenizer:
    """Make a byte-pair tokenizer of a SentencePiece model; text without a piece becomes bytes."""
    bos = int(config.get("bos_token_id", 1))
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2
    from transformers.tokenization_utils_base import generate_merges

    proto = getattr(sentencepiece_model_pb2, "ModelProto")()  # noqa: B009 - generated: mypy sees none
    try:
        proto.ParseFromString(file.read_bytes())
    except DecodeError:
        raise ConfigError(f"{file} is no SentencePiece model") from None
    kinds = {number: piece.type for number, piece in enumerate(proto.pieces)}
    names = [piece.piece for piece in proto.pieces]
    if not names or _UNKNOWN not in kinds.values():
        raise ConfigError(f"{file} is no SentencePiece model")
    if proto.trainer_spec.model_type != _BPE:
        raise ConfigError(f"{file}: only SentencePiece models of kind BPE are read; save a tokenizer.json")
    vocab = {name: number for number, name in enumerate(names)}
    unknown = names[next(number for number, kind in kinds.items() if kind == _UNKNOWN)]
    merges = generate_merges(
        vocab, skip_tokens={name for number, name in enumerate(names) if kinds[number] in _ATOMIC}
    )
    model = models.BPE(vocab=vocab, merges=merges, fuse_unk=True, byte_fallback=True, unk_token=unknown)
    tokenizer = Tokenizer(model)
    begins = bool(proto.normalizer_spec.add_dummy_prefix) and settings.get("add_prefix_space") is not False
    if settings.get("legacy") is False:
        scheme = "first" if begins else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme=scheme, split=False)
    else:
        blank = normalizers.Replace(" ", _SPACE)
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend(_SPACE), blank] if begins else [blank]
        )
    first = [
        decoders.Replace(_SPACE, " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(first)
    special = [name for number, name in enumerate(names) if kinds[number] in (_CONTROL, _UNKNOWN)]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in special])
    if settings.get("add_bos_token") is not False:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{names[bos]} $A",
            pair=f"{names[bos]} $A {names[bos]} $B",
            special_tokens=[(names[bos], bos)],
        )
    return tokenizer
