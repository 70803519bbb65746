"""From the bytes of an image file, of any format, size and kind that Pillow reads, to pixels of one geometry."""

import io
import math
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from os import cpu_count
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import with_file_name
from stages.lib.datasets.array_file import ArrayFile, as_they_are
from stages.lib.preprocessing.geometry import fit

FEW = 64  # images that are not worth another process
CHUNK = 16  # images that a process takes at a time

T = TypeVar("T")


def decode(content: bytes, size: int) -> tuple[np.ndarray, bool]:
    """An image, resized on its shorter side and cut to a square.

    Returns:
        (3, size, size) uint8, and whether the file is a grey one, as `load` has them.

    Raises:
        ValueError: as `load` does.
    """
    pixels, grey = open_image(content)
    return fit(pixels[np.newaxis], size)[0], grey


def open_image(content: bytes) -> tuple[np.ndarray, bool]:
    """An image at its own size, turned upright as its camera noted.

    Transparent pixels become white; 16 bits are scaled to 8.

    Returns:
        (3, H, W) uint8, and whether the file is a grey one; of those the three channels are equal.

    Raises:
        ValueError: Pillow cannot read it, or its pixels have no known range.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
            if image.mode.startswith("I;16"):
                image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError("pixels of 32 bits, whose range is not known; save it with 8 or 16 bits")
            if image.has_transparency_data:
                over = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(over, image.convert("RGBA"))
            image = image if image.mode == "RGB" else image.convert("RGB")
            return np.array(image).transpose(2, 0, 1), grey
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("no image of a format that Pillow knows") from error
    except Exception as error:  # each of Pillow's readers has its own
        raise ValueError(reason(error)) from error


def _fitted(pixels: np.ndarray, size: int) -> tuple[np.ndarray, None]:
    return fit(pixels[np.newaxis], size)[0], None


def decode_all(
    content_of: Callable[[str], bytes], names: Sequence[str], size: int, path: Path, bar: "tqdm[Any] | None" = None
) -> tuple[ArrayFile, dict[int, str]]:
    """Decode many files into one, each brought to `size` by `geometry.fit`: see `prepare_all`."""
    images, unreadable, _ = prepare_all(content_of, _fitted, names, size, path, bar)
    return images, unreadable


def prepare_all(
    content_of: Callable[[str], bytes],
    prepare: Callable[[np.ndarray, int], tuple[np.ndarray, T | None]],
    names: Sequence[str],
    size: int,
    path: Path,
    bar: "tqdm[Any] | None" = None,
) -> tuple[ArrayFile, dict[int, str], dict[int, T]]:
    """Decode many files into one, with as many processes as there are processors.

    Args:
        content_of: gives the bytes of a file; may raise ValueError or OSError. It is sent to other processes.
        prepare: turns an image (3, H, W) uint8 and `size` into pixels (3, size, size) uint8 and a note on the image,
            or None; may raise ValueError. It is sent to other processes.
        names: of the files.
        size: pixels a side.
        path: of the file to write, which needs 3 * size * size bytes for each image.
        bar: goes on by one for each image; None: one of its own, on a terminal.

    Returns:
        (N, C, size, size) uint8, C being 1 if all are grey and else 3; and row -> why, of those that cannot be read,
        whose pixels are 0; and row -> note.

    Raises:
        UserError: a process was ended from outside.
        OSError: the file cannot be written.
    """
    shape = (len(names), 3, size, size)
    with with_file_name(path), path.open("wb") as file:
        file.truncate(math.prod(shape))
    unreadable: dict[int, str] = {}
    notes: dict[int, T] = {}
    all_grey = True
    if len(names) >= FEW:
        import torch  # noqa: F401  # once for all processes, which begin as copies of this one

    if bar is None:
        bar = tqdm(total=len(names), desc="decoding", unit=" images", disable=None)
    processes = ProcessPoolExecutor(cpu_count(), initializer=_begin)
    try:
        one = partial(_prepare_one, content_of, prepare, size, path)
        rows = range(len(names))
        found = map(one, rows, names) if len(names) < FEW else processes.map(one, rows, names, chunksize=CHUNK)
        for row, result in enumerate(found):
            bar.update()
            if isinstance(result, str):
                unreadable[row] = result
            else:
                grey, note = result
                all_grey &= grey
                if note is not None:
                    notes[row] = note
    except BrokenProcessPool as error:
        raise UserError("a process that decodes images was ended, perhaps for want of memory; run it again") from error
    finally:
        processes.shutdown(cancel_futures=True)
    images = ArrayFile(path, shape, np.dtype(np.uint8), 0, _first_channel if all_grey else as_they_are)
    return images, unreadable, notes


def _prepare_one(
    content_of: Callable[[str], bytes],
    prepare: Callable[[np.ndarray, int], tuple[np.ndarray, T | None]],
    size: int,
    path: Path,
    row: int,
    name: str,
) -> tuple[bool, T | None] | str:
    """Write the pixels of an image to the file; whether it is grey, and the note; or why it cannot be read."""
    try:
        pixels, grey = open_image(content_of(name))
        pixels, note = prepare(pixels, size)
    except (ValueError, OSError) as error:
        return reason(error)
    with with_file_name(path), path.open("r+b", buffering=0) as file:
        file.seek(row * pixels.nbytes)
        file.write(pixels.tobytes())
    return grey, note


def _first_channel(rows: np.ndarray) -> np.ndarray:
    return rows[:, :1]


def _begin() -> None:
    """A process that decodes leaves signals to its parent, and the other processors to its siblings."""
    import torch

    torch.set_num_threads(1)
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_IGN)
