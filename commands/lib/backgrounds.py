"""Light or dark backgrounds, judged by pixels: of single images and of the training images."""

import numpy as np

from stages.lib.splits.description import DataDescription

NEARLY = 0.25  # training pixels (0 to 1) are nearly all dark up to this mean, nearly all light from 1 less this
MIDDLE = 127  # the lightest of the dark values
CLEAR_EDGE = 0.9  # least share of background among the pixels at the edge, for a clear background
CLEAR_IMAGE = 0.5  # least share of background among all pixels
SPREAD = 64  # greatest distance of the background's pixels from the median: a quarter of the range


def trained_on_light(description: DataDescription) -> bool | None:
    """Whether the training images have a light background; None if neither nearly all light nor nearly all dark."""
    mean = float(np.mean(description.mean))
    if NEARLY < mean < 1 - NEARLY:
        return None
    return mean > 0.5


def edge(image: np.ndarray) -> np.ndarray:
    """Return the pixels at the edge of an image (C, H, W), each once if H and W are at least 2: (n,)."""
    sides = [image[..., 0, :], image[..., -1, :], image[..., 1:-1, 0], image[..., 1:-1, -1]]
    return np.concatenate(sides, -1).ravel()


def is_light(image: np.ndarray) -> bool:
    """Whether at least half of the pixels at the edge of an image (C, H, W) uint8 are light."""
    return bool(np.median(edge(image)) > MIDDLE)


def is_clear(image: np.ndarray) -> bool:
    """Whether an image is clearly a drawing on a light background or on a dark one, so that it may be inverted unasked.

    A photograph, a drawing that touches the edge and one that fills the image are not clear. Background is what lies
    on the same side of the middle as the median of the edge, and within SPREAD of it. Three conditions: at least
    CLEAR_EDGE of the edge is background; at least CLEAR_IMAGE of the image is; some pixel is on the other side of the
    middle, so that there is a drawing at all.

    Args:
        image: (C, H, W) uint8.
    """
    border = edge(image)
    median = np.median(border)

    def background(pixels: np.ndarray) -> np.ndarray:
        mask: np.ndarray = ((pixels > MIDDLE) == (median > MIDDLE)) & (np.abs(pixels - median) <= SPREAD)
        return mask

    return bool(
        background(border).mean() >= CLEAR_EDGE
        and background(image).mean() >= CLEAR_IMAGE
        and ((image > MIDDLE) != (median > MIDDLE)).any()
    )
