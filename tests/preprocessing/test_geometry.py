"""Cropping and resizing images to a square."""

import numpy as np
import pytest

from stages.lib.preprocessing.geometry import fit


def test_images_of_the_target_size_are_returned_unchanged() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 28, 28), np.uint8)
    assert fit(images, 28) is images


@pytest.mark.parametrize("shape", [(20, 20), (40, 60), (60, 40), (7, 90)])
@pytest.mark.parametrize("size", [2, 8, 28])
def test_any_shape_becomes_a_square(shape: tuple[int, int], size: int) -> None:
    images = np.full((2, 3, *shape), 77, np.uint8)
    np.testing.assert_array_equal(fit(images, size), np.full((2, 3, size, size), 77))


def test_the_centre_is_kept() -> None:
    image = np.zeros((1, 1, 10, 30), np.uint8)
    image[..., 10:20] = 255  # the middle third
    assert (fit(image, 10) == 255).all()


def test_shrinking_averages_pixels() -> None:
    checkerboard = np.indices((28, 28)).sum(0) % 2 * 255
    assert abs(fit(checkerboard[None, None].astype(np.uint8), 7)[0, 0, 3, 3] - 127.5) < 2
