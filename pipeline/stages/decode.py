"""Decode: encoded images to RGB squares of the model's own size."""

import functools
import hashlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.models.config import Model
from pipeline.stages.imaging import Imaging, decode
from pipeline.stages.rows import pack_buffers, to_ipc, unpack
from pipeline.support.errors import BadImage
from pipeline.support.schema import IMAGES

if TYPE_CHECKING:
    from pipeline.models.preprocess import Preprocessor

_NOTHING = dict.fromkeys(("image_sha256", "width", "height", "pixels", "image_decode_s"))


def decode_unit(batch: pa.Table, *, model: Model, imaging: Imaging) -> pa.Table:
    """One unit's SAMPLES to IMAGES, as the model's image processor makes them."""
    started, cpu_from = time.time(), time.process_time()
    row = unpack(batch)
    preprocessor = _preprocessor(model)
    images = to_ipc(IMAGES, _images(row.tables["samples"], preprocessor, imaging))
    return pack_buffers(row.passed("decode", started, {}, cpu_from=cpu_from), {"images": images})


@functools.cache
def _preprocessor(model: Model) -> "Preprocessor":
    from pipeline.models.preprocess import preprocessor_of

    return preprocessor_of(model)


def _images(samples: pa.Table, preprocessor: "Preprocessor", imaging: Imaging) -> Iterator[pa.RecordBatch]:
    """One record batch a sample, so that no more than one picture is held beside the output."""
    for index in range(samples.num_rows):
        line = {name: samples[name][index] for name in samples.column_names}
        data = line.pop("image").as_buffer()
        fields = {name: value.as_py() for name, value in line.items()}
        if fields["status"] == "ok":
            fields |= _decoded(data, preprocessor, imaging)
        else:
            fields |= _NOTHING
        yield pa.RecordBatch.from_pylist([fields], schema=IMAGES)


def _decoded(data: pa.Buffer, preprocessor: "Preprocessor", imaging: Imaging) -> dict[str, Any]:
    started = time.perf_counter()
    digest = hashlib.sha256(data).hexdigest()
    try:
        image, width, height = decode(data, imaging, preprocessor.image_size)
        pixels = preprocessor(image).tobytes()
    except BadImage as fault:
        return _NOTHING | {"image_sha256": digest, "status": fault.status, "error": str(fault)}
    seconds = time.perf_counter() - started
    return {
        "image_sha256": digest,
        "width": width,
        "height": height,
        "pixels": pixels,
        "image_decode_s": seconds,
    }
