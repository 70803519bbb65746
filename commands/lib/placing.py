"""The placement of MNIST's digits, for other drawings. The demo page applies the same rule to what is drawn on it."""

import math

import numpy as np
from PIL import Image

from commands.lib.backgrounds import SPREAD, edge


def without_paper(drawing: np.ndarray, size: int) -> np.ndarray:
    """Threshold a scan, a photograph or a JPEG of a light drawing, as the originals of MNIST were.

    Its background is uneven, so that a box around all non-zero pixels is not one around the drawing. An image whose
    background is even stays as it is, and so does one that is no larger than the model's: there the grey levels are all
    that is left of the shapes.

    Args:
        drawing: (H, W) uint8, light on dark.
        size: side of the model's images, in pixels.

    Returns:
        (H, W) uint8: 255 where a pixel is nearer to the lightest one than to the background, else 0. The background is
        the median of the edge.

    Raises:
        ValueError: the lightest pixel is too close to the background; or part of the edge is closer to the lightest
            pixel (uneven light, the rim of a scan, the table around the paper), so that no box around the drawing alone
            is possible.
    """
    border = edge(drawing[np.newaxis])
    background, lightest = float(np.median(border)), float(drawing.max())
    if lightest - background < SPREAD:
        raise ValueError(
            f"blank, or drawn too faintly: expected a pixel that differs from the background by {SPREAD} of 255 or more"
        )
    if background == 0 and (max(drawing.shape) <= size or _is_sharp(drawing)):
        return drawing
    threshold = (background + lightest) / 2
    if (border > threshold).any():
        raise ValueError("uneven background at the edge; crop the image to the paper and light it evenly")
    return np.where(drawing > threshold, np.uint8(255), np.uint8(0))


def _is_sharp(drawing: np.ndarray) -> bool:
    """Whether faint pixels extend one pixel beyond the others at most, as of antialiasing; those of a JPEG extend 7."""
    reach = np.abs(np.subtract(_box(drawing > 0), _box(drawing > SPREAD)))
    return bool(reach.max() <= 1)


def _box(ink: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the non-zero pixels, the last two exclusive; zeros if there are none."""
    return Image.fromarray(ink).getbbox() or (0, 0, 0, 0)


def placed(drawing: np.ndarray, size: int) -> np.ndarray:
    """Place a drawing like MNIST's digits: scale its box to fit 20 x 20 pixels, centre its mass in 28 x 28.

    Other sizes in proportion. `placed` in demo/digit.js follows the same rule and gives the same pixels.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE 86 (1998), section III.A; and the page of the MNIST database.

    Args:
        drawing: (H, W) uint8, light ink on 0.
        size: side of the result, in pixels.

    Returns:
        (size, size) uint8.

    Raises:
        ValueError: there is no ink, or none is left at this size.
    """
    if not drawing.any():
        raise ValueError("blank")
    ink = Image.fromarray(drawing).crop(_box(drawing))
    scale = _rounded(size * 20 / 28) / max(ink.size)
    width, height = (max(1, _rounded(side * scale)) for side in ink.size)
    # One axis at a time: Pillow rounds to bytes between the two, and starts with whichever is faster.
    wide = ink.resize((width, ink.height), Image.Resampling.BILINEAR)
    digit = np.asarray(wide.resize((width, height), Image.Resampling.BILINEAR))

    weights = digit.astype(np.float64)
    mass = weights.sum()
    if not mass:
        raise ValueError("too little ink: none is left at the model's image size")
    # Rounding up is not documented, but leaves MNIST's digits where they are, if their box is 20 pixels.
    left, top = (
        min(max(math.ceil(size / 2 - (weights.sum(axis) * (np.arange(length) + 0.5)).sum() / mass), 0), size - length)
        for axis, length in enumerate((width, height))
    )
    canvas = np.zeros((size, size), np.uint8)
    canvas[top : top + height, left : left + width] = digit
    return canvas


def _rounded(number: float) -> int:
    """Round half up, as JavaScript does."""
    return math.floor(number + 0.5)
