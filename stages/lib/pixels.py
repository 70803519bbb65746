"""From the bytes of an image file, of any format, size and kind that Pillow reads, to pixels of one geometry."""

import io
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from os import cpu_count
from signal import SIG_IGN, SIGINT, SIGTERM, signal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from stages.lib.geometry import fit_image
from stages.lib.stage import UserError, reason

FEW = 64  # images that are not worth another process
CHUNK = 16  # images that a process takes at a time


def decode(content: bytes, size: int) -> tuple[np.ndarray, bool]:
    """An image, turned upright as its camera noted, resized on its shorter side and cut to a square.

    Transparent pixels become white; 16 bits are scaled to 8.

    Returns:
        (3, size, size) uint8, and whether the file is a grey one; of those the three channels are equal.

    Raises:
        ValueError: Pillow cannot read it, or its pixels have no known range.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = Image.open(io.BytesIO(content))
            image = ImageOps.exif_transpose(file)
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
            if image.mode.startswith("I;16"):
                image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError("pixels of 32 bits, whose range is not known; save it with 8 or 16 bits")
            if image.has_transparency_data:
                over = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(over, image.convert("RGBA"))
            fitted = fit_image(image.convert("RGB"), size)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("no image of a format that Pillow knows") from error
    except Exception as error:  # each of Pillow's readers has its own
        raise ValueError(reason(error)) from error
    return np.asarray(fitted).transpose(2, 0, 1), grey


def decode_all(
    content_of: Callable[[str], bytes], names: Sequence[str], size: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Decode many files, with as many processes as there are processors.

    Args:
        content_of: gives the bytes of a file; may raise ValueError or OSError. It is sent to other processes.
        names: of the files.
        size: pixels a side.

    Returns:
        (N, C, size, size) uint8, C being 1 if all are grey and else 3; and row -> why, of those that cannot be read,
        whose pixels are 0.

    Raises:
        UserError: a process was ended from outside.
    """
    images = np.zeros((len(names), 3, size, size), np.uint8)
    unreadable: dict[int, str] = {}
    all_grey = True
    processes = ProcessPoolExecutor(cpu_count(), initializer=_leave_signals_to_the_parent)
    try:
        one = partial(_decode_one, content_of, size)
        found = map(one, names) if len(names) < FEW else processes.map(one, names, chunksize=CHUNK)
        for row, result in enumerate(tqdm(found, total=len(names), desc="decoding", unit=" images", disable=None)):
            if isinstance(result, str):
                unreadable[row] = result
            else:
                images[row], grey = result
                all_grey &= grey
    except BrokenProcessPool as error:
        raise UserError("a process that decodes images was ended, perhaps for want of memory; run it again") from error
    finally:
        processes.shutdown(cancel_futures=True)
    return images[:, :1] if all_grey else images, unreadable


def _decode_one(content_of: Callable[[str], bytes], size: int, name: str) -> tuple[np.ndarray, bool] | str:
    try:
        return decode(content_of(name), size)
    except (ValueError, OSError) as error:
        return reason(error)


def _leave_signals_to_the_parent() -> None:
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_IGN)
