"""The one geometry that every image is brought to: square, `size` pixels a side."""

import numpy as np
from PIL import Image


def fit(images: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` and cut out the centre; images that fit already are given back as they are.

    Args:
        images: (N, C, H, W) uint8.
        size: pixels a side.

    Returns:
        (N, C, size, size) uint8; the resize is Pillow's bilinear one, which averages when it shrinks.
    """
    height, width = images.shape[2:]
    if (height, width) == (size, size):
        return images
    scale = size / min(height, width)
    new_height, new_width = max(size, round(height * scale)), max(size, round(width * scale))
    top, left = (new_height - size) // 2, (new_width - size) // 2
    fitted = np.empty((*images.shape[:2], size, size), np.uint8)
    for row, channels in enumerate(images):
        for channel, plane in enumerate(channels):
            resized = Image.fromarray(plane).resize((new_width, new_height), Image.Resampling.BILINEAR)
            fitted[row, channel] = np.asarray(resized)[top : top + size, left : left + size]
    return fitted
