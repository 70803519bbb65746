"""The picture of the most confident mistakes, drawn with Pillow alone."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stages.lib.core.files import printable
from stages.lib.reporting.evaluation import Mistake

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLUMNS = 5
SIDE = 168  # pixels of an image as drawn: six times the 28 of a digit
LINE = 16  # pixels of a line of its caption
GAP = 20
ROOM = SIDE + GAP // 2  # pixels that a line may be wide


def mistakes_sheet(images: np.ndarray, mistakes: Sequence[Mistake]) -> Image.Image:
    """A sheet of captioned images, five to a row.

    Args:
        images: (N, C, H, W) uint8, with 1 or 3 channels.
        mistakes: what to write below each image.
    """
    font = ImageFont.load_default(13)
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


def caption(mistake: Mistake, font: Font) -> list[str]:
    """The lines below an image, each at most ROOM pixels wide: what it is, what was predicted, which image it is."""
    actual, predicted = "actual ", "predicted "
    confidence = "" if mistake.confidence is None else f" ({mistake.confidence:.1%})"
    place = f"row {mistake.index}" if mistake.file is None else shortened(mistake.file, ROOM, font, keep_end=True)
    return [
        actual + shortened(mistake.actual, ROOM - font.getlength(actual), font),
        predicted + shortened(mistake.predicted, ROOM - font.getlength(predicted + confidence), font) + confidence,
        place,
    ]


def shortened(text: str, room: float, font: Font, *, keep_end: bool = False) -> str:
    """A text in one line of at most `room` pixels, with an ellipsis for what is cut off, at its end or its start."""
    text = printable(text)
    if font.getlength(text) <= room:
        return text

    def cut(kept: int) -> str:
        return "…" + text[len(text) - kept :] if keep_end else text[:kept] + "…"

    too_long = bisect_right(range(len(text)), room, key=lambda kept: font.getlength(cut(kept)))
    return cut(max(0, too_long - 1))
