"""Input for benchmarks: WebDataset tars of small pictures, made on the spot."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def write_tars(folder: Path, samples: int, questions: int, tars: int, side: int) -> Path:
    """`samples` JPEGs of `side` pixels with `questions` questions each, in `tars` tars; always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(tars):
        with tarfile.open(folder / f"{number:03d}.tar", "w") as tar:
            for index in range(number, samples, tars):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
                picture = io.BytesIO()
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(picture, "JPEG")
                asked = [f"what is thing {index} part {part}?" for part in range(questions)]
                _add(tar, f"{index:08d}.jpg", picture.getvalue())
                _add(tar, f"{index:08d}.json", json.dumps({"questions": asked}).encode())
    return folder


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
