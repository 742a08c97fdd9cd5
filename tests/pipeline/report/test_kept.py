"""The picture of kept patches, for grids of any size."""

import numpy as np
import pytest

from pipeline.report.kept_patches import DIMMED, _lit


@pytest.mark.parametrize("grid", [*range(1, 9), 24, 27])
def test_each_patch_of_a_grid_is_lit_by_its_bit(grid):
    kept = np.arange(grid**2) % 3 == 0
    square = np.full((4 * grid, 4 * grid, 3), 200, np.uint8)
    shown = _lit(square, np.packbits(kept).tobytes(), grid**2)
    patches = shown.reshape(grid, 4, grid, 4, 3).transpose(0, 2, 1, 3, 4).reshape(grid**2, -1)
    assert (patches[kept] == 200).all()
    assert (patches[~kept] == int(DIMMED * 200)).all()


def test_a_request_that_failed_is_dark():
    square = np.full((8, 8, 3), 200, np.uint8)
    assert (_lit(square, None, None) == int(DIMMED * 200)).all()
