"""Declares every table of the pipeline: those between stages and those in files."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

SCHEMA_VERSION = 1

QUESTION = pa.struct([("question_id", pa.string()), ("question", pa.string()), ("fault", pa.string())])


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


# `read` yields one row for each sample.
SAMPLES = pa.schema(
    [
        _required("sample", pa.int64()),
        _required("sample_key", pa.string()),
        pa.field("image", pa.large_binary()),
        _required("questions", pa.list_(QUESTION)),
        _required("status", pa.string()),
        pa.field("error", pa.string()),
    ]
)

# `decode` yields one row for each sample. `pixels` is RGB, uint8, [S, S, 3].
IMAGES = pa.schema(
    [
        *(field for field in SAMPLES if field.name != "image"),
        pa.field("image_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("pixels", pa.large_binary()),
        pa.field("image_decode_s", pa.float32()),
    ]
)


@dataclass(frozen=True)
class Column:
    """Describes one column of an output for its readers; output files hold the field alone.

    Args:
        description: for the data set card; seconds are named by the `_s` at a name's end.
        compared: "shared" if all arms of a comparison have the same value, which it holds once; "arm" if
            each arm has its own; None if a comparison leaves the column out.
    """

    field: pa.Field
    description: str
    compared: Literal["shared", "arm"] | None

    @property
    def name(self) -> str:
        return str(self.field.name)


def _shared(field: pa.Field, description: str) -> Column:
    return Column(field, description, "shared")


def _of_arm(field: pa.Field, description: str) -> Column:
    return Column(field, description, "arm")


def _not_compared(field: pa.Field, description: str) -> Column:
    return Column(field, description, None)


# Output files have these columns in this order, one row for each request. The data set card, `compare` and
# the report read here how to treat a column.
COLUMNS = (
    _shared(
        _required("key", pa.string()),
        "shard, sample and question, in the order of the source; no two rows have the same",
    ),
    _shared(_required("sample_key", pa.string()), "the sample's name in the source"),
    _shared(_required("question_id", pa.string()), "the question's name in the source, or its number"),
    _shared(_required("source", pa.string()), "the URI of the shard's file"),
    _shared(_required("sample", pa.int64()), "the sample's number in its shard"),
    _shared(pa.field("image_sha256", pa.string()), "SHA-256 of the image's bytes"),
    _not_compared(pa.field("width", pa.int32()), "the image's width in pixels"),
    _not_compared(pa.field("height", pa.int32()), "the image's height in pixels"),
    _shared(
        _required("question", pa.string()), "the question as it was asked, without the prompt's template"
    ),
    _of_arm(pa.field("prediction", pa.string()), "the model's answer; null unless status is ok"),
    _of_arm(_required("status", pa.string()), "ok, or what was wrong"),
    _of_arm(pa.field("error", pa.string()), "one line on what was wrong"),
    _of_arm(pa.field("finish_reason", pa.string()), "stop, or length: max_new_tokens was reached"),
    _of_arm(pa.field("visual_tokens_full", pa.int32()), "visual tokens of the image, before reduction"),
    _of_arm(
        pa.field("visual_tokens_kept", pa.int32()),
        "visual tokens that the language model saw, an aggregated one included",
    ),
    _of_arm(
        pa.field("kept_patches", pa.binary()),
        "bitmap, one bit a patch, row by row, the first in the highest bit of the first byte",
    ),
    _of_arm(pa.field("prompt_tokens", pa.int32()), "tokens of the text that the model was given"),
    _of_arm(pa.field("generated_tokens", pa.int32()), "tokens of the answer"),
    _of_arm(
        pa.field("image_decode_s", pa.float32()), "this request's share of the seconds of decoding its image"
    ),
    _of_arm(pa.field("encode_s", pa.float32()), "its share of CLIP"),
    _of_arm(pa.field("reduce_s", pa.float32()), "its share of the reduction"),
    _of_arm(pa.field("prefill_s", pa.float32()), "its share of the language model's first pass"),
    _of_arm(pa.field("generate_s", pa.float32()), "its share of the whole generation, prefill included"),
    _not_compared(
        pa.field("tokens_per_s", pa.float32()),
        "(visual_tokens_kept + prompt_tokens + generated_tokens) / generate_s",
    ),
    _not_compared(_required("model", pa.string()), "the model's name, as in conf/model"),
    _not_compared(_required("reducer", pa.string()), "the reducer's name, as in conf/reducer"),
    _not_compared(_required("run_id", pa.string()), "the run's name, as in run.json"),
)
PREDICTIONS = pa.schema([column.field for column in COLUMNS])
SHARED_COLUMNS = tuple(column.name for column in COLUMNS if column.compared == "shared")
ARM_COLUMNS = tuple(column.name for column in COLUMNS if column.compared == "arm")

# `encode` yields one row for each request and arm, `generate` fills it in. `visual` is its row in TOKENS.
REQUESTS = pa.schema(
    [
        _required("arm", pa.int32()),
        pa.field("visual", pa.int32()),
        *(field for field in PREDICTIONS if field.name not in ("source", "model", "reducer", "run_id")),
    ]
)

# One row for each reduced image: [K, D] in the encode dtype, row-major, as raw bytes.
TOKENS = pa.schema([_required("tokens", pa.large_binary())])

SECONDS = ("image_decode_s", "encode_s", "reduce_s", "prefill_s", "generate_s")
COUNTS = ("visual_tokens_full", "visual_tokens_kept", "prompt_tokens", "generated_tokens")
# The columns that differ between two runs even if all answers are equal.
VOLATILE = (*SECONDS, "tokens_per_s", "run_id")
FAULTS = ("bad_sample", "bad_image", "bad_question", "failed")
STATUSES = ("ok", *FAULTS)

SHARDS = pa.schema(
    [
        _required("shard", pa.int64()),
        _required("uri", pa.string()),
        _required("size", pa.int64()),
        _required("etag", pa.string()),
        pa.field("samples", pa.int64()),  # the number that the run takes; null: all
        pa.field(
            "files", pa.list_(pa.struct([("uri", pa.string()), ("size", pa.int64()), ("etag", pa.string())]))
        ),
    ]
)
