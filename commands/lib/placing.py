"""A drawing placed as MNIST's digits are: the rule that the demo page applies to what is drawn on it, in Python."""

import math

import numpy as np
from PIL import Image

from commands.lib.backgrounds import ROOM, edge


def without_paper(drawing: np.ndarray, size: int) -> np.ndarray:
    """A scan, a photograph or a JPEG of a light drawing in black and white, as those were that MNIST was made from.

    Its background is never of one value, so that no box can be laid around what is not 0. Where one can, nothing is
    changed; nor in an image that is no larger than the model's, whose greys are all that is left of the shapes.

    Args:
        drawing: (H, W) uint8, light on dark.
        size: pixels a side of the model's images.

    Returns:
        (H, W) uint8: 255 where it is nearer to the lightest pixel than to the background, which is the median of the
        edge, else 0.

    Raises:
        ValueError: the lightest pixel is too near to the background; or some of the edge is nearer to the lightest
            pixel: uneven light, the rim of a scan or the table around the paper, and no box could be laid around the
            drawing alone.
    """
    border = edge(drawing[np.newaxis])
    background, lightest = float(np.median(border)), float(drawing.max())
    if lightest - background < ROOM:
        raise ValueError(
            f"nothing is drawn on it, or too faintly: no pixel is {ROOM:.0f} of 255 from the background or more"
        )
    if background == 0 and (max(drawing.shape) <= size or _is_sharp(drawing)):
        return drawing
    middle = (background + lightest) / 2
    if (border > middle).any():
        raise ValueError("its background is not even up to the edge; cut it to the paper, in even light")
    return np.where(drawing > middle, np.uint8(255), np.uint8(0))


def _is_sharp(drawing: np.ndarray) -> bool:
    """Whether faint pixels reach no more than one pixel beyond the others, as they do where edges are smoothed; those
    around the ink of a JPEG reach up to seven.
    """
    reach = np.abs(np.subtract(_box(drawing > 0), _box(drawing > ROOM)))
    return bool(reach.max() <= 1)


def _box(ink: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is not 0, the last two exclusive; all 0 where everything is."""
    return Image.fromarray(ink).getbbox() or (0, 0, 0, 0)


def placed(drawing: np.ndarray, size: int) -> np.ndarray:
    """Scale the box around the ink to fit 20 x 20 pixels, and lay it into 28 x 28 so that its centre of mass is at
    theirs (of another size, in proportion).

    `placed` in demo/digit.js is the same rule, and gives the same pixels.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document Recognition",
    Proceedings of the IEEE 86 (1998), section III.A; and the page of the MNIST database.

    Args:
        drawing: (H, W) uint8, light ink on 0.
        size: pixels a side.

    Returns:
        (size, size) uint8.

    Raises:
        ValueError: there is no ink, or too little to be left at this size.
    """
    if not drawing.any():
        raise ValueError("nothing is drawn on it")
    ink = Image.fromarray(drawing).crop(_box(drawing))
    scale = _rounded(size * 20 / 28) / max(ink.size)
    width, height = (max(1, _rounded(side * scale)) for side in ink.size)
    # One axis at a time: Pillow rounds to bytes between them, and takes first whichever is quicker.
    wide = ink.resize((width, ink.height), Image.Resampling.BILINEAR)
    digit = np.asarray(wide.resize((width, height), Image.Resampling.BILINEAR))

    weights = digit.astype(np.float64)
    mass = weights.sum()
    if not mass:
        raise ValueError("too little is drawn on it to be seen at the model's size")
    # Rounded up, which nobody has written down: so MNIST's own digits stay where they are if their box is of 20 pixels.
    left, top = (
        min(max(math.ceil(size / 2 - (weights.sum(axis) * (np.arange(length) + 0.5)).sum() / mass), 0), size - length)
        for axis, length in enumerate((width, height))
    )
    field = np.zeros((size, size), np.uint8)
    field[top : top + height, left : left + width] = digit
    return field


def _rounded(number: float) -> int:
    """Halves up, as JavaScript does."""
    return math.floor(number + 0.5)
