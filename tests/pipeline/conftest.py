"""Fixtures of all pipeline tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds `llava` and `clip`: real files, random weights."""
    from pipeline.models.demo.random_weights import make_random

    folder = tmp_path_factory.mktemp("checkpoint") / "random"
    make_random(folder)
    return folder


@pytest.fixture(scope="session")
def photographs() -> list:
    """RGB images of several sizes and shapes: those that scikit-image installs."""
    import skimage
    from PIL import Image

    folder = Path(skimage.__file__).parent / "data"
    files = sorted([*folder.glob("*.png"), *folder.glob("*.jpg")])
    return [Image.open(file).convert("RGB") for file in files]
