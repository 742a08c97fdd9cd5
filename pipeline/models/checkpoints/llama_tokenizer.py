"""Writes Llama's tokenizer as a tokenizer.json, from one or from the original SentencePiece model.

transformers 5 reads a `tokenizer.model` in two ways, and for a folder whose config.json says `llava` it takes
the one without a space before the first word (seen with 5.23), which gives other ids than the model's. Here
the pieces are SentencePiece's own and every text begins with a space, as in the slow tokenizer that LLaVA's
code uses; texts on either side of an added token are tokenised separately.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

from pipeline.models.checkpoints.files import Json, read_json
from pipeline.support.errors import ConfigError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
_SPACE = "▁"
_UNKNOWN, _CONTROL, _BYTE = 2, 3, 6  # kinds of pieces, sentencepiece_model.proto
_ATOMIC = (_UNKNOWN, _CONTROL, _BYTE)  # never merged from other pieces


def write_tokenizer(folder: Path, target: Path, config: Json, added: Sequence[str] = ()) -> Tokenizer:
    """Write tokenizer.json and tokenizer_config.json into `target`; returns the tokenizer.

    Args:
        folder: the checkpoint, with a tokenizer.json or a tokenizer.model.
        config: of the language model, for its bos_token_id and eos_token_id.
        added: further special tokens.

    Raises ConfigError if there is no tokenizer, or it cannot be read.
    """
    tokenizer = _read(folder, config)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in added])
    tokenizer.save(str(target / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    length = read_json(settings).get("model_max_length") if settings.is_file() else None
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


def _read(folder: Path, config: Json) -> Tokenizer:
    whole, pieces = folder / "tokenizer.json", folder / "tokenizer.model"
    if whole.is_file():
        try:
            return Tokenizer.from_file(str(whole))
        except Exception as error:  # noqa: BLE001 - tokenizers raises nothing narrower
            raise ConfigError(f"{whole} is no tokenizer: {error}") from None
    if not pieces.is_file():
        raise ConfigError(f"{folder} lacks a tokenizer (tokenizer.json or tokenizer.model)")
    return _from_pieces(pieces, int(config.get("bos_token_id", 1)))


def _from_pieces(file: Path, bos: int) -> Tokenizer:
    """Make a byte-pair tokenizer of a SentencePiece model; text without a piece becomes bytes."""
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
    vocab = {name: number for number, name in enumerate(names)}
    unknown = names[next(number for number, kind in kinds.items() if kind == _UNKNOWN)]
    merges = generate_merges(
        vocab, skip_tokens={name for number, name in enumerate(names) if kinds[number] in _ATOMIC}
    )
    model = models.BPE(vocab=vocab, merges=merges, fuse_unk=True, byte_fallback=True, unk_token=unknown)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
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
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names[bos]} $A", pair=f"{names[bos]} $A {names[bos]} $B", special_tokens=[(names[bos], bos)]
    )
    return tokenizer
