import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil

from pipeline.errors import ConfigError
from pipeline.models.preprocess import Preprocessor


@pytest.mark.parametrize("part", ["llava", "clip"])
def test_crops_and_numbers_give_the_processors_own_pixel_values(random_checkpoint, photographs, part):
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
