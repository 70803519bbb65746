"""Resampling of images: bilinear at given places, and bicubic to another size."""

import math
from typing import Any

import torch
from torch import Tensor

from stages.lib.arithmetic.exact import ALONE, Ranks
from stages.lib.arithmetic.guard import trusted
from stages.lib.arithmetic.products import Linear

SHARPNESS = -0.75  # of cubic convolution, as in PyTorch


@trusted
def grid_sample(
    ranks: Ranks,
    images: Tensor,
    grid: Tensor,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool = False,
) -> Tensor:
    """`torch.nn.functional.grid_sample`, bilinear, with the border repeated and corners not aligned; no gradient.

    Args:
        images: (B, C, H, W) float32.
        grid: (B, H', W', 2) float32, x and y; half an image is 1.
    """
    if (mode, padding_mode, align_corners) != ("bilinear", "border", False):
        raise NotImplementedError("grid_sample other than bilinear, border, corners not aligned")
    rows, channels, height, width = images.shape
    across, down = (
        ((grid[..., axis] + 1) * (side / 2) - 0.5).clamp(0, side - 1) for axis, side in ((0, width), (1, height))
    )
    left, top = across.floor(), down.floor()
    right_share, low_share = (across - left)[:, None], (down - top)[:, None]  # (B, 1, H', W')
    flat = images.reshape(rows, channels, height * width)

    def pixels(x: Tensor, y: Tensor) -> Tensor:
        at = (y * width + x).long().flatten(1)[:, None].expand(-1, channels, -1)
        return flat.gather(2, at).view(rows, channels, *grid.shape[1:3])

    right, low = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    above = pixels(left, top) * (1 - right_share) + pixels(right, top) * right_share
    below = pixels(left, low) * (1 - right_share) + pixels(right, low) * right_share
    return above * (1 - low_share) + below * low_share


@trusted
def interpolate(
    ranks: Ranks,
    images: Tensor,
    size: Any = None,
    scale_factor: None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    **options: Any,
) -> Tensor:
    """`torch.nn.functional.interpolate`, bicubic, with corners not aligned; no gradient."""
    if mode != "bicubic" or align_corners:
        raise NotImplementedError("interpolate other than bicubic, corners not aligned")
    for dim in (3, 2):
        weights = bicubic_weights(images.shape[dim], size[dim - 2])
        moved = images.movedim(dim, -1)
        images = Linear.apply(moved.reshape(-1, moved.shape[-1]), weights, None, ALONE)
        images = images.view(*moved.shape[:-1], size[dim - 2]).movedim(-1, dim)
    return images


def bicubic_weights(before: int, after: int) -> Tensor:
    """Return the weights (after, before) float32 of cubic convolution (Keys 1981), the border repeated."""
    weights = [[0.0] * before for _ in range(after)]
    for at in range(after):
        place = (at + 0.5) * before / after - 0.5
        first = math.floor(place)
        for neighbour in range(first - 1, first + 3):
            weights[at][min(max(neighbour, 0), before - 1)] += cubic(abs(place - neighbour))
    return torch.tensor(weights)


def cubic(x: float) -> float:
    """The kernel of cubic convolution."""
    a = SHARPNESS
    if x <= 1:
        return ((a + 2) * x - (a + 3)) * x * x + 1
    return ((x - 5) * x + 8) * x * a - 4 * a if x < 2 else 0.0
