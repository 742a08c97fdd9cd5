"""Test image preprocessing against the library's processors."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from pipeline.models.preprocess import Preprocessor
from pipeline.support.errors import ConfigError


@pytest.mark.parametrize("part", ["llava", "clip"])
def test_crop_and_normalization_give_the_processors_pixel_values(random_checkpoint, photographs, part):
    preprocessor = Preprocessor(random_checkpoint / part)
    reference = CLIPImageProcessorPil.from_pretrained(random_checkpoint / "clip")
    numbers = preprocessor.normalization
    shapes = set()
    for image in photographs[::2]:
        pixels = preprocessor(image)
        assert pixels.dtype == np.uint8
        assert pixels.shape == (336, 336, 3)
        values = (pixels.astype(np.float32) * np.float32(numbers.rescale_factor) - numbers.mean) / numbers.std
        expected = reference(image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(values.transpose(2, 0, 1), expected, rtol=1e-5, atol=1e-6)
        shapes.add(image.width - image.height > 0)
    assert shapes == {True, False}


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (900, 3), (336, 336)])
def test_odd_shapes_come_out_square(random_checkpoint, size):
    assert Preprocessor(random_checkpoint / "llava")(Image.new("RGB", size, "red")).shape == (336, 336, 3)


def test_a_folder_without_a_processor_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="image processor"):
        Preprocessor(tmp_path)


@pytest.mark.parametrize("kind", ["published", "saved by transformers"])
def test_pillow_alone_equals_the_library_bit_for_bit(random_checkpoint, tmp_path, kind):
    from transformers import AutoImageProcessor

    folder = random_checkpoint / "llava"
    library = AutoImageProcessor.from_pretrained(folder, backend="pil")
    if kind == "published":  # numbers instead of objects, as in the oldest checkpoints
        settings = {
            "feature_extractor_type": "CLIPFeatureExtractor",
            "size": 336,
            "crop_size": 336,
            "resample": 3,
        }
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
        folder = tmp_path
    preprocessor = Preprocessor(folder)
    assert preprocessor._library is None
    rng = np.random.default_rng(0)
    for _ in range(40):
        width, height = (int(side) for side in rng.integers(1, 700, 2))
        if max(width, height) > 16 * min(width, height):
            continue
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        expected = library(image, do_rescale=False, do_normalize=False)["pixel_values"][0]
        assert np.array_equal(preprocessor(image), np.asarray(expected).transpose(1, 2, 0)), (width, height)


def test_other_processors_use_the_library(tmp_path):
    from transformers import ViTImageProcessorPil

    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    preprocessor = Preprocessor(tmp_path)
    assert preprocessor._library is not None
    assert preprocessor(Image.new("RGB", (90, 40))).shape == (64, 64, 3)
    assert preprocessor.normalization.mean == (0.5, 0.5, 0.5)


def test_decoding_imports_neither_torch_nor_transformers(random_checkpoint):
    code = (
        "import sys; from pathlib import Path; from PIL import Image; import pipeline.stages.decode;"
        "from pipeline.models.preprocess import Preprocessor;"
        f"Preprocessor(Path({str(random_checkpoint / 'llava')!r}))(Image.new('RGB', (50, 40)));"
        "sys.exit(' '.join({'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True).stderr.strip() == ""
    )
