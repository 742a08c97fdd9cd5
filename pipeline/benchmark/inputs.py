"""Input for benchmarks: WebDataset tars of small pictures, made on the spot."""

import io
import json
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
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


def vit_l(dtype: torch.dtype) -> Any:
    """The 23 layers that LLaVA reads, with random weights, which change no time."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    tower: Any = CLIPVisionModel(config)
    return tower.to(dtype).eval()


def seconds_of(work: Callable[[], Any]) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
