"""Whether an image is dark on light or light on dark, by its pixels, and whether the training images are."""

import numpy as np

from stages.lib.splits.description import DataDescription

NEARLY = 0.25  # mean of training pixels, 0 to 1, up to which their background is dark, or from 1 less that on light
MIDDLE = 127  # the lightest of the dark values
PLAIN = 0.9  # share of the edge's pixels that are of a background that is clear
ROOM = 64  # how far those are from their median, at most: a quarter of the range
MOST_DRAWN = 0.5  # share of the pixels of a drawing that are not background


def on_light(description: DataDescription) -> bool | None:
    """Whether the training images have a light background, or a dark one; None: they are neither nearly all light nor
    nearly all dark, and nothing can be said.
    """
    mean = float(np.mean(description.mean))
    if NEARLY < mean < 1 - NEARLY:
        return None
    return mean > 0.5


def edge(image: np.ndarray) -> np.ndarray:
    """The pixels at the edge of an image (C, H, W): (n,), each once if H and W are 2 or more."""
    sides = [image[..., 0, :], image[..., -1, :], image[..., 1:-1, 0], image[..., 1:-1, -1]]
    return np.concatenate(sides, -1).ravel()


def seems_on_light(image: np.ndarray) -> bool:
    """Whether the background of an image (C, H, W) uint8 is light: at least half of the pixels at its edge are its."""
    return bool(np.median(edge(image)) > MIDDLE)


def is_clear(image: np.ndarray) -> bool:
    """Whether an image is plainly a drawing on a light background, or on a dark one: then a program may invert it
    unasked.

    Three things, so that neither a photograph nor a drawing that touches the edge or fills the image is taken for one
    of the other kind: of the pixels at the edge nine in ten are on the same side of the middle, and within a quarter of
    the range of their median; at least half of all pixels are so, too; and some pixel is on the other side: an
    empty image has no ink to tell from the background.

    Args:
        image: (C, H, W) uint8.
    """
    border = edge(image)
    median = np.median(border)

    def background(pixels: np.ndarray) -> np.ndarray:
        plain: np.ndarray = ((pixels > MIDDLE) == (median > MIDDLE)) & (np.abs(pixels - median) <= ROOM)
        return plain

    return bool(
        background(border).mean() >= PLAIN
        and background(image).mean() >= MOST_DRAWN
        and ((image > MIDDLE) != (median > MIDDLE)).any()
    )
