"""Exact mean and standard deviation of 8-bit pixels, and of a regression's targets.

Pixels have 256 values. Sums over the counts of these values, in Python's integers, are exact for any number and order
of images.
"""

import math
from fractions import Fraction

import numpy as np
from PIL import Image


def count_values(images: np.ndarray) -> np.ndarray:
    """Count the values of each channel: (N, C, H, W) uint8 -> (C, 256) int64. Counts of several blocks can be added.

    Pillow takes a quarter of the time of `np.bincount`, which converts all pixels to int64 first.
    """
    planes = images.swapaxes(0, 1).reshape(images.shape[1], -1, images.shape[3])
    return np.array([Image.fromarray(plane).histogram() for plane in planes], np.int64)


def mean_and_std(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Return mean and population standard deviation (divided by N) of each channel, for pixels scaled to 0..1.

    Args:
        counts: (C, 256) int64, from `count_values`.
    """
    means, stds = [], []
    for channel in counts.tolist():
        number = sum(channel)
        total = sum(value * count for value, count in enumerate(channel))
        squares = sum(value * value * count for value, count in enumerate(channel))
        means.append(float(Fraction(total, 255 * number)))
        stds.append(math.sqrt(Fraction(number * squares - total * total, (255 * number) ** 2)))
    return means, stds


def mean_and_std_of_reals(values: np.ndarray) -> tuple[float, float]:
    """Return mean and population standard deviation of (N,) float64.

    The sums are rounded once (`math.fsum`), so the order of the values makes no difference. The standard deviation is
    infinite if a square overflows.

    Raises:
        OverflowError: a sum overflows.
    """
    mean = math.fsum(values) / len(values)
    with np.errstate(over="ignore"):
        squares = (values - mean) ** 2
    return mean, math.sqrt(math.fsum(squares) / len(values))
