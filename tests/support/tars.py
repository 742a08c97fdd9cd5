"""Write tars and pictures for tests to read."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def jpeg(seed: int, width: int | None = None, height: int = 48) -> bytes:
    """Make a small picture that depends on the seed; widths, and so sizes in bytes, vary."""
    rng = np.random.default_rng(seed)
    width = width or int(rng.integers(24, 240))
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    sink = io.BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar with these names and contents."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            add(tar, name, data)
    return path


def write_tar(path: Path, samples: int, *, seed: int = 0, questions: int = 1, **picture: int) -> Path:
    """Write a WebDataset tar; sample i has `1 + i % questions` questions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for index in range(samples):
            sample_questions = [
                {
                    "question_id": f"q{seed}-{index}-{number}",
                    "question": f"what is thing {index} of {seed}, part {number}?",
                }
                for number in range(1 + index % questions)
            ]
            add(tar, f"{seed:03d}/{index:06d}.jpg", jpeg(seed * 100_000 + index, **picture))
            add(tar, f"{seed:03d}/{index:06d}.json", json.dumps({"questions": sample_questions}).encode())
    return path


def extract_all(path: Path, folder: Path) -> None:
    """Extract every member as its name says, as Pythons before 3.11.4 do."""
    with tarfile.open(path) as tar:
        tar.extraction_filter = lambda member, _: member
        tar.extractall(folder)
