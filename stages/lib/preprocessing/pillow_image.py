"""Read one image with Pillow: any format, size and mode, as three channels of 8 bits."""

import io
import re
import warnings
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from stages.lib.core.errors import reason
from stages.lib.datasets import image_names
from stages.lib.preprocessing import jpeg

MOST_PIXELS = 1 << 28  # of an image, whose decoding then takes 3 GB
MOST_ELONGATED = 100  # one side over the other: resized, the image has so many times the pixels of its square
MOST_TEXT = 1 << 26  # bytes of the comments in a PNG
TOO_LARGE = f"more than {MOST_PIXELS / 1e6:.0f} million pixels; make it smaller"
WHITE = 65_535  # the largest value of 16 bits
ORIENTATION = 0x0112  # a tag of EXIF; 1: as stored
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and one of its values
COLOUR_OF_16_BITS = ";16[BLN]"  # in Pillow's names for the pixels of a file
SEVERAL_PAGES = ("AVIF", "GIF", "PNG", "TIFF", "WEBP")  # not MPO, whose other pages are previews or a second lens

Image.MAX_IMAGE_PIXELS = MOST_PIXELS
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MOST_TEXT


class Picture(NamedTuple):
    """A decoded image."""

    pixels: np.ndarray  # (3, H, W) uint8
    grey: bool  # whether the file is grey; the three channels are then equal
    brightest: int | None  # the largest value in a grey file of 16 bits; None: it is another
    brightest_colour: int | None  # the largest of 256 levels in a file of 16 bits in colour; None: it is another
    pages: int  # in the file; this is the first


def open_image(content: bytes, name: str = "", *, white: int = WHITE) -> Picture:
    """Decode an image at its original size, rotated as its EXIF orientation says. Transparent pixels become white.

    Args:
        content: of the file.
        name: of the file, which helps to say why it cannot be read.
        white: the largest value that pixels of 16 bits can have; they are scaled to 8 bits.

    Raises:
        ValueError: Pillow cannot read it, it is too large or too elongated, or the range of its values is unknown.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd metadata
            image_names.refuse_raw(name)
            image: Image.Image = Image.open(io.BytesIO(content), formats=image_names.formats())
            check_size(*image.size)
            pages = count_pages(image)
            if not pages:
                pages, image = 1, Image.open(io.BytesIO(content), formats=image_names.formats())
            grey = image.mode in ("1", "I", "L", "LA") or image.mode.startswith("I;16")
            if image.format == "JPEG" and image.mode in ("RGB", "L") and image.getexif().get(ORIENTATION, 1) == 1:
                pixels = jpeg.decode(content)
                if pixels is not None:
                    return Picture(pixels, grey, None, None, pages)
            stored = str(image.tile)  # type: ignore[attr-defined]  # how; forgotten once the pixels are loaded
            ImageOps.exif_transpose(image, in_place=True)
            image, brightest, brightest_colour = in_eight_bits(image, stored, white)
            if image.has_transparency_data:
                background = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(background, image.convert("RGBA"))
            image = image if image.mode == "RGB" else image.convert("RGB")
            return Picture(np.array(image).transpose(2, 0, 1), grey, brightest, brightest_colour, pages)
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:  # of more than twice the limit
        raise ValueError(TOO_LARGE) from error
    except UnidentifiedImageError as error:
        raise ValueError(image_names.unreadable(content, name)) from error
    except Exception as error:  # each of Pillow's readers raises its own
        raise ValueError(reason(error)) from error


def check_size(width: int, height: int) -> None:
    """Refuse an image that would take too much memory.

    Raises:
        ValueError: it has too many pixels, or is too elongated.
    """
    size = f"{width:,} x {height:,} pixels"
    if width * height > MOST_PIXELS:
        raise ValueError(f"{size}: {TOO_LARGE}")
    if max(width, height) > MOST_ELONGATED * min(width, height):
        raise ValueError(f"{size}: one side more than {MOST_ELONGATED} times the other; cut it into pieces")


def count_pages(image: Image.Image) -> int:
    """Return the number of pages; 0 if those after the first are damaged, and the image has to be opened again."""
    try:
        return getattr(image, "n_frames", 1) if image.format in SEVERAL_PAGES else 1
    except Exception:  # each of Pillow's readers raises its own
        return 0


def in_eight_bits(image: Image.Image, stored: str, white: int) -> tuple[Image.Image, int | None, int | None]:
    """Scale pixels of 16 bits to 8; other images stay as they are.

    Returns:
        The image, and its `brightest` and `brightest_colour` in a `Picture`.

    Raises:
        ValueError: the range of the values is unknown, or other than `white` says.
    """
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        brightest = int(values.max())
        if brightest > white:
            raise ValueError(f"a pixel has the value {brightest}, above max_pixel_value, which is {white}")
        if image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:  # type: ignore[attr-defined]
            values = white - values  # Pillow inverts 8 bits alone
        return Image.fromarray(np.rint(values * 255 / white).astype(np.uint8)), brightest, None
    if image.mode == "I" and image.format == "PPM":  # the file gives its white, and Pillow scales it to 16 bits
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)), None, None
    if image.mode in ("I", "F"):
        lowest, highest = image.getextrema()
        raise ValueError(
            f"signed, 32-bit or real pixels from {lowest:g} to {highest:g}, whose black and white are unknown; save it "
            "with 8 bits, or with 16 without a sign"
        )
    if not re.search(COLOUR_OF_16_BITS, stored):
        return image, None, None
    if white != WHITE:
        raise ValueError(f"colour of 16 bits, for which max_pixel_value {white} is not supported; save it with 8 bits")
    return image, None, int(np.asarray(image.convert("RGB")).max())  # Pillow reads the upper 8 bits
