"""Decodes image files to RGB squares of the size that the model takes."""

import functools
import hashlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.models.config import Model
from pipeline.stages.imaging import Imaging, decode
from pipeline.stages.rows import pack_buffers, to_ipc, unpack_unit
from pipeline.support.errors import BadImage
from pipeline.support.schema import IMAGES

if TYPE_CHECKING:
    from pipeline.models.preprocess import Preprocessor

_NOT_DECODED = dict.fromkeys(("image_sha256", "width", "height", "pixels", "image_decode_s"))


def decode_unit(batch: pa.Table, *, model: Model, imaging: Imaging) -> pa.Table:
    """Turn one unit's SAMPLES into IMAGES, preprocessed as by the model's image processor."""
    started, cpu_from = time.time(), time.process_time()
    row = unpack_unit(batch)
    preprocessor = _preprocessor(model)
    images = to_ipc(IMAGES, _images(row.tables["samples"], preprocessor, imaging))
    return pack_buffers(row.passed("decode", started, {}, cpu_from=cpu_from), {"images": images})


@functools.cache
def _preprocessor(model: Model) -> "Preprocessor":
    from pipeline.models.preprocess import preprocessor_of

    return preprocessor_of(model)


def _images(samples: pa.Table, preprocessor: "Preprocessor", imaging: Imaging) -> Iterator[pa.RecordBatch]:
    """Decode into one record batch per sample, so that memory holds one picture besides the output."""
    for index in range(samples.num_rows):
        scalars = {name: samples[name][index] for name in samples.column_names}
        data = scalars.pop("image").as_buffer()  # not copied
        fields = {name: value.as_py() for name, value in scalars.items()}
        if fields["status"] == "ok":
            fields |= _decoded(data, preprocessor, imaging)
        else:
            fields |= _NOT_DECODED
        yield pa.RecordBatch.from_pylist([fields], schema=IMAGES)


def _decoded(data: pa.Buffer, preprocessor: "Preprocessor", imaging: Imaging) -> dict[str, object]:
    """Decode one image into fields of IMAGES; an image that cannot be decoded gets a status and an error."""
    started = time.perf_counter()
    digest = hashlib.sha256(data).hexdigest()
    try:
        image, width, height = decode(data, imaging, preprocessor.image_size)
        pixels = preprocessor(image).tobytes()
    except BadImage as fault:
        return _NOT_DECODED | {"image_sha256": digest, "status": fault.status, "error": str(fault)}
    seconds = time.perf_counter() - started
    return {
        "image_sha256": digest,
        "width": width,
        "height": height,
        "pixels": pixels,
        "image_decode_s": seconds,
    }
