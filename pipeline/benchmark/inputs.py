"""Makes the input of benchmarks: WebDataset tars of small pictures, and a random ViT."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image


def write_tars(folder: Path, samples: int, questions: int, tars: int, side: int) -> Path:
    """Write JPEGs of `side` pixels with `questions` questions each into `tars` tars, always the same."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(tars):
        with tarfile.open(folder / f"{number:03d}.tar", "w") as tar:
            for index in range(number, samples, tars):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
                picture = io.BytesIO()
                coarse.resize((side, side), Image.Resampling.BICUBIC).save(picture, "JPEG")
                texts = [f"what is thing {index} part {part}?" for part in range(questions)]
                _add(tar, f"{index:08d}.jpg", picture.getvalue())
                _add(tar, f"{index:08d}.json", json.dumps({"questions": texts}).encode())
    return folder


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def vit_l(dtype: torch.dtype) -> torch.nn.Module:
    """Make the 23 layers of CLIP's ViT-L that LLaVA reads, with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=23,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    tower: torch.nn.Module = CLIPVisionModel(config)
    return tower.to(dtype).eval().requires_grad_(False)
