"""One geometry for all images: square, `size` pixels per side."""

import numpy as np


def fit(images: np.ndarray, size: int) -> np.ndarray:
    """Resize the shorter side to `size` and crop the centre; return images of this size unchanged.

    The resize is torch's, bilinear with antialiasing. On uint8 it computes with integers, so that every processor gives
    the same result. It takes a fifth of the time of Pillow's; one pixel in 500 differs from Pillow's by 1.

    Args:
        images: (N, C, H, W) uint8.
        size: pixels per side, at least 2.

    Returns:
        (N, C, size, size) uint8.
    """
    height, width = images.shape[2:]
    if height == width == size:
        return images
    import torch  # takes a second, and images of the right size do not need it
    from torch.nn.functional import interpolate

    scale = size / min(height, width)
    new_height, new_width = max(size, round(height * scale)), max(size, round(width * scale))
    top, left = (new_height - size) // 2, (new_width - size) // 2
    resized = interpolate(torch.from_numpy(images), (new_height, new_width), mode="bilinear", antialias=True)
    fitted: np.ndarray = resized[:, :, top : top + size, left : left + size].numpy()
    return fitted
