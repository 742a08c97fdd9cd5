"""Every table of the pipeline, declared once: what travels between stages and what is written."""

import pyarrow as pa

SCHEMA_VERSION = 1

QUESTION = pa.struct([pa.field("question_id", pa.string()), pa.field("question", pa.string())])


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


# One row a sample: what `read` yields.
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

# One row a sample: what `decode` yields. `pixels` is RGB, uint8, [S, S, 3].
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

# One row a request: what is written, in this order.
PREDICTIONS = pa.schema(
    [
        _required("key", pa.string()),
        _required("sample_key", pa.string()),
        _required("question_id", pa.string()),
        _required("source", pa.string()),
        _required("sample", pa.int64()),
        pa.field("image_sha256", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        _required("question", pa.string()),
        pa.field("prediction", pa.string()),
        _required("status", pa.string()),
        pa.field("error", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("visual_tokens_full", pa.int32()),
        pa.field("visual_tokens_kept", pa.int32()),
        pa.field("kept_patches", pa.binary()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("generated_tokens", pa.int32()),
        pa.field("image_decode_s", pa.float32()),
        pa.field("encode_s", pa.float32()),
        pa.field("reduce_s", pa.float32()),
        pa.field("prefill_s", pa.float32()),
        pa.field("generate_s", pa.float32()),
        pa.field("tokens_per_s", pa.float32()),
        _required("model", pa.string()),
        _required("reducer", pa.string()),
        _required("run_id", pa.string()),
    ]
)

# One row a (request, arm): what `encode` yields and `generate` fills in. `visual` is its row in TOKENS.
REQUESTS = pa.schema(
    [
        _required("arm", pa.int32()),
        pa.field("visual", pa.int32()),
        *(field for field in PREDICTIONS if field.name not in ("source", "model", "reducer", "run_id")),
    ]
)

# One row a reduced image: [K, D] in the encode dtype, row-major, as raw bytes.
TOKENS = pa.schema([_required("tokens", pa.large_binary())])

SECONDS = ("image_decode_s", "encode_s", "reduce_s", "prefill_s", "generate_s")
COUNTS = ("visual_tokens_full", "visual_tokens_kept", "prompt_tokens", "generated_tokens")
# What differs between two runs that answered the same requests alike.
VOLATILE = (*SECONDS, "tokens_per_s", "run_id")
FAULTS = ("bad_sample", "bad_image", "bad_question", "failed")
STATUSES = ("ok", *FAULTS)

SHARDS = pa.schema(
    [
        _required("shard", pa.int64()),
        _required("uri", pa.string()),
        _required("size", pa.int64()),
        _required("etag", pa.string()),
        pa.field("samples", pa.int64()),  # how many are taken; null: all
        pa.field(
            "files", pa.list_(pa.struct([("uri", pa.string()), ("size", pa.int64()), ("etag", pa.string())]))
        ),
    ]
)
