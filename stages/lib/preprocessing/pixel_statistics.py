"""Mean and standard deviation, exact: of 8-bit pixels, and of the real numbers that a regression predicts.

Pixels take 256 values, so their counts hold all there is to know: the sums below are of Python's whole numbers and
lose nothing, whatever the number of images or the order in which they came.
"""

import math
from fractions import Fraction

import numpy as np


def count_values(images: np.ndarray) -> np.ndarray:
    """How often each value occurs in each channel: (N, C, H, W) uint8 -> (C, 256) int64. Counts of parts add up."""
    channels = images.shape[1]
    return np.stack([np.bincount(images[:, channel].ravel(), minlength=256) for channel in range(channels)])


def mean_and_std(counts: np.ndarray) -> tuple[list[float], list[float]]:
    """Per channel, of pixels scaled to 0..1; the standard deviation is that of the population (divided by N).

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
    """Of (N,) float64, by sums that are rounded once (`math.fsum`); divided by N. The order makes no difference.

    Raises:
        OverflowError: a sum is beyond all floats; a square beyond them makes the second number infinite.
    """
    mean = math.fsum(values) / len(values)
    with np.errstate(over="ignore"):
        squares = (values - mean) ** 2
    return mean, math.sqrt(math.fsum(squares) / len(values))
