"""Computes a digest of a checkpoint from its small files and the headers of its weights, without torch."""

import hashlib
import struct
from pathlib import Path

from pipeline.models.checkpoints.files import SMALL_FILES, require_inside, weight_files
from pipeline.models.checkpoints.tensors import read_header, tensors_of


def weights_digest(folder: Path) -> str:
    """Compute a sha256 that changes with the checkpoint, without reading its gigabytes.

    It covers name, size and header of each weight file, the first 64 bytes of each tensor (or a fine-tuned
    model would pass for its base), and the whole of the configuration and tokenizer files.
    Raises ConfigError if there are no safetensors files.
    """
    digest = hashlib.sha256()

    def add(*parts: bytes) -> None:
        for part in parts:
            digest.update(struct.pack("<Q", len(part)) + part)

    for file in weight_files(folder):
        header = read_header(file)
        add(file.name.encode(), str(file.stat().st_size).encode(), header)
        with file.open("rb") as stream:
            for where in tensors_of(header, file).values():
                stream.seek(where.start)
                add(stream.read(min(64, where.size)))
    for name in SMALL_FILES:
        if (folder / name).is_file():
            require_inside(folder / name)
            add(name.encode(), (folder / name).read_bytes())
    return digest.hexdigest()
