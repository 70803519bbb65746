"""The picture of the most confident mistakes, drawn with Pillow alone."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 5
SIDE = 140  # pixels of an image as drawn
LINE = 16  # pixels of a line of its caption
GAP = 16


def mistakes_sheet(images: np.ndarray, captions: list[list[str]]) -> Image.Image:
    """A sheet of captioned images, five to a row.

    Args:
        images: (N, C, H, W) uint8, with 1 or 3 channels.
        captions: lines of text for each image, as many for each.
    """
    font = ImageFont.load_default(13)
    if not captions:
        sheet = Image.new("RGB", (COLUMNS * (SIDE + GAP) + GAP, LINE + 2 * GAP), "white")
        ImageDraw.Draw(sheet).text((GAP, GAP), "No mistakes to show.", "black", font)
        return sheet
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
