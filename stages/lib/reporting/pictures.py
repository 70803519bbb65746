"""The picture of the worst errors, drawn with Pillow alone: importing matplotlib would take longer than drawing."""

import importlib.util
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.lib.core.errors import UserError
from stages.lib.core.files import printable
from stages.lib.reporting.results import Mistake

FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"  # of matplotlib; Pillow's own has western European letters alone
LETTERS = 13  # pixels
NO_LETTER = "\uffff"
COLUMNS = 5
SIDE = 168  # pixels of an image in the picture: six times the 28 of a digit
LINE = 16  # pixels from one line of a caption to the next
GAP = 20  # pixels between images
CAPTION_WIDTH = SIDE + GAP // 2  # pixels, at most


def mistakes_sheet(images: np.ndarray, mistakes: Sequence[Mistake]) -> Image.Image:
    """Draw images with captions, five per row.

    Args:
        images: (N, C, H, W) uint8, with 1 or 3 channels.
        mistakes: N of them, for the captions.
    """
    font = load_font()
    if not mistakes:
        sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, LINE + 2 * GAP), "white")
        ImageDraw.Draw(sheet).text((GAP, GAP), "No mistakes to show.", "black", font)
        return sheet
    captions = [caption(mistake, font) for mistake in mistakes]
    columns = min(COLUMNS, len(captions))
    height = SIDE + LINE * len(captions[0]) + GAP
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, -(-len(captions) // columns) * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (image, lines) in enumerate(zip(images, captions, strict=True)):
        left, top = GAP + number % columns * (SIDE + GAP), GAP + number // columns * height
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        sheet.paste(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST), (left, top))
        for line, text in enumerate(lines):
            draw.text((left, top + SIDE + LINE * line), text, "black" if line == 0 else "dimgray", font)
    return sheet


@cache
def load_font() -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans from the installed matplotlib, without importing it.

    It has Latin, Greek, Cyrillic, Armenian, Georgian, Hebrew, Arabic and others, but no Chinese, Japanese, Korean,
    Thai or Indian letters. The letters are placed one after another, from left to right: the alternative needs a
    library that is not on every machine.

    Raises:
        UserError: matplotlib is not installed.
    """
    package = importlib.util.find_spec("matplotlib")
    if package is None or package.origin is None:
        raise UserError("matplotlib, whose font is used, is not installed; `make .venv` or `uv sync` installs it")
    return ImageFont.truetype(Path(package.origin).parent / FONT, LETTERS, layout_engine=ImageFont.Layout.BASIC)


@cache
def drawable(letter: str) -> str:
    """Return a letter, or its escape if the font lacks it, which would be drawn as a box."""
    font = load_font()
    missing = bytes(font.getmask(letter)) == bytes(font.getmask(NO_LETTER))
    return letter.encode("unicode_escape").decode() if missing else letter


def caption(mistake: Mistake, font: ImageFont.FreeTypeFont) -> list[str]:
    """Format the lines below an image, each at most CAPTION_WIDTH wide: actual, predicted, and which image it is."""
    actual, predicted = "actual ", "predicted "
    confidence = "" if mistake.confidence is None else f" ({mistake.confidence:.1%})"
    if mistake.file is None:
        source = f"row {mistake.index}"
    else:
        source = shortened(mistake.file, CAPTION_WIDTH, font, keep_end=True)
    actual_width = CAPTION_WIDTH - font.getlength(actual)
    predicted_width = CAPTION_WIDTH - font.getlength(predicted + confidence)
    return [
        actual + shortened(mistake.actual, actual_width, font),
        predicted + shortened(mistake.predicted, predicted_width, font) + confidence,
        source,
    ]


def shortened(text: str, width: float, font: ImageFont.FreeTypeFont, *, keep_end: bool = False) -> str:
    """Shorten a text to one line of at most `width` pixels, with an ellipsis at its end, or at its start."""
    text = "".join(map(drawable, printable(unicodedata.normalize("NFC", text))))
    if font.getlength(text) <= width:
        return text

    def cut(kept: int) -> str:
        return "…" + text[len(text) - kept :] if keep_end else text[:kept] + "…"

    too_long = bisect_right(range(len(text)), width, key=lambda kept: font.getlength(cut(kept)))
    return cut(max(0, too_long - 1))
