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
    if images.shape[2:] == (size, size):
        return images
    fitted = np.empty((*images.shape[:2], size, size), np.uint8)
    for row, channels in enumerate(images):
        for channel, plane in enumerate(channels):
            fitted[row, channel] = np.asarray(fit_image(Image.fromarray(plane), size))
    return fitted


def fit_image(image: Image.Image, size: int) -> Image.Image:
    """The same for one image of any mode."""
    width, height = image.size
    scale = size / min(height, width)
    new_height, new_width = max(size, round(height * scale)), max(size, round(width * scale))
    top, left = (new_height - size) // 2, (new_width - size) // 2
    resized = image.resize((new_width, new_height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + size, top + size))
