"""Mean and standard deviation of the pixels, per channel."""

import numpy as np

from stages.lib.preprocessing.pixel_statistics import count_values, mean_and_std


def test_statistics_match_double_precision_over_all_pixels() -> None:
    images = np.random.default_rng(0).integers(0, 256, (200, 3, 9, 7), np.uint8)
    means, stds = mean_and_std(count_values(images))
    scaled = images / 255
    np.testing.assert_allclose(means, scaled.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(stds, scaled.std((0, 2, 3)), rtol=1e-13)


def test_counts_of_parts_add_up_to_identical_statistics() -> None:
    images = np.random.default_rng(1).integers(0, 256, (100, 1, 5, 5), np.uint8)
    parts = sum(count_values(part) for part in np.array_split(images, 7))
    assert mean_and_std(np.asarray(parts)) == mean_and_std(count_values(images))


def test_constant_pixels_have_zero_deviation() -> None:
    assert mean_and_std(count_values(np.full((10, 1, 4, 4), 51, np.uint8))) == ([0.2], [0.0])
