"""Fixtures that all pipeline tests can use."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with `llava` and `clip`: real files with random weights."""
    from pipeline.models.demo.random_weights import make_random

    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    make_random(folder)
    return folder


@pytest.fixture(scope="session")
def photographs() -> list:
    """Load scikit-image's photographs as RGB images of several sizes and shapes."""
    import skimage
    from PIL import Image

    folder = Path(skimage.__file__).parent / "data"
    files = sorted([*folder.glob("*.png"), *folder.glob("*.jpg")])
    return [Image.open(file).convert("RGB") for file in files]
