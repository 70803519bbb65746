"""Decode image files, of any format, size and mode that Pillow reads, into pixels of one geometry."""

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
from stages.lib.datasets.array_file import ArrayFile, unchanged
from stages.lib.preprocessing.geometry import fit

FEW = 64  # images; fewer are decoded in this process
CHUNK = 16  # images that a worker process takes at a time

T = TypeVar("T")


def decode(content: bytes, size: int) -> tuple[np.ndarray, bool]:
    """Decode an image, resize its shorter side to `size` and crop the centre.

    Returns:
        (3, size, size) uint8, and whether the file is grey, as in `open_image`.

    Raises:
        ValueError: as in `open_image`.
    """
    pixels, grey = open_image(content)
    return fit(pixels[np.newaxis], size)[0], grey


def open_image(content: bytes) -> tuple[np.ndarray, bool]:
    """Decode an image at its original size, rotated as its EXIF orientation says.

    Transparent pixels become white; 16 bits are scaled to 8.

    Returns:
        (3, H, W) uint8, and whether the file is grey; its three channels are then equal.

    Raises:
        ValueError: Pillow cannot read it, or the range of its pixel values is unknown.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # about odd metadata
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image: Image.Image = Image.open(io.BytesIO(content))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            grey = image.mode in ("1", "L", "LA") or image.mode.startswith("I;16")
            if image.mode.startswith("I;16"):
                image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
            elif image.mode in ("I", "F"):
                raise ValueError("pixels of 32 bits, whose range is unknown; save it with 8 or 16 bits")
            if image.has_transparency_data:
                background = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(background, image.convert("RGBA"))
            image = image if image.mode == "RGB" else image.convert("RGB")
            return np.array(image).transpose(2, 0, 1), grey
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        raise ValueError("no image of a format that Pillow knows") from error
    except Exception as error:  # each of Pillow's readers raises its own
        raise ValueError(reason(error)) from error


def decode_all(
    content_of: Callable[[str], bytes], names: Sequence[str], size: int, path: Path
) -> tuple[ArrayFile, dict[int, str]]:
    """Decode many files into one file of pixels, each image brought to `size` by `geometry.fit`; see `prepare_all`."""
    images, unreadable, _ = prepare_all(content_of, _fit, names, size, path)
    return images, unreadable


def prepare_all(
    content_of: Callable[[str], bytes],
    prepare: Callable[[np.ndarray, int], tuple[np.ndarray, T | None]],
    names: Sequence[str],
    size: int,
    path: Path,
    bar: "tqdm[Any] | None" = None,
) -> tuple[ArrayFile, dict[int, str], dict[int, T]]:
    """Decode many files into one file of pixels, with as many processes as there are processors.

    Args:
        content_of: returns the bytes of a file; may raise ValueError or OSError. It is sent to worker processes.
        prepare: turns an image (3, H, W) uint8 and `size` into pixels (3, size, size) uint8 and a note on the image,
            or None; may raise ValueError. It is sent to worker processes.
        names: of the files.
        size: pixels per side.
        path: of the file to write, which needs 3 * size * size bytes per image.
        bar: advanced by one per image; None: a new one, shown on a terminal.

    Returns:
        Images (N, C, size, size) uint8, C being 1 if all files are grey, otherwise 3; row -> reason for each file that
        cannot be read, whose pixels are 0; and row -> note.

    Raises:
        UserError: a worker process was killed.
        OSError: the file of pixels cannot be written.
    """
    shape = (len(names), 3, size, size)
    with with_file_name(path), path.open("wb") as file:
        file.truncate(math.prod(shape))
    unreadable: dict[int, str] = {}
    notes: dict[int, T] = {}
    all_grey = True
    if len(names) >= FEW:
        import torch  # noqa: F401  # once for all workers, which are forked from this process

    if bar is None:
        bar = tqdm(total=len(names), desc="decoding", unit=" images", disable=None)
    processes = ProcessPoolExecutor(cpu_count(), initializer=_start_worker)
    try:
        one = partial(_prepare_one, content_of, prepare, size, path)
        rows = range(len(names))
        results = map(one, rows, names) if len(names) < FEW else processes.map(one, rows, names, chunksize=CHUNK)
        for row, result in enumerate(results):
            bar.update()
            if isinstance(result, str):
                unreadable[row] = result
            else:
                grey, note = result
                all_grey &= grey
                if note is not None:
                    notes[row] = note
    except BrokenProcessPool as error:
        raise UserError("a process that decodes images was killed, perhaps out of memory; run it again") from error
    finally:
        processes.shutdown(cancel_futures=True)
    images = ArrayFile(path, shape, np.dtype(np.uint8), 0, _first_channel if all_grey else unchanged)
    return images, unreadable, notes


def _prepare_one(
    content_of: Callable[[str], bytes],
    prepare: Callable[[np.ndarray, int], tuple[np.ndarray, T | None]],
    size: int,
    path: Path,
    row: int,
    name: str,
) -> tuple[bool, T | None] | str:
    """Write the pixels of an image to the file. Returns whether it is grey, and the note; or why it cannot be read."""
    try:
        pixels, grey = open_image(content_of(name))
        pixels, note = prepare(pixels, size)
    except (ValueError, OSError) as error:
        return reason(error)
    with with_file_name(path), path.open("r+b", buffering=0) as file:
        file.seek(row * pixels.nbytes)
        file.write(pixels.tobytes())
    return grey, note


def _fit(pixels: np.ndarray, size: int) -> tuple[np.ndarray, None]:
    return fit(pixels[np.newaxis], size)[0], None


def _first_channel(rows: np.ndarray) -> np.ndarray:
    return rows[:, :1]


def _start_worker() -> None:
    """Ignore SIGINT and SIGTERM, which the parent process handles, and use one thread."""
    import torch

    torch.set_num_threads(1)
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_IGN)
