"""Decode many image files into pixels of one geometry, on all processors."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import with_file_name
from stages.lib.datasets.array_file import ArrayFile
from stages.lib.preprocessing.geometry import fit
from stages.lib.preprocessing.pillow_image import WHITE, open_image

FEW = 64  # images; fewer are decoded in this process
HALF = 128  # of 256 levels
CHUNK = 16  # images that a worker process takes at a time

T = TypeVar("T")


def decode(content: bytes, size: int) -> tuple[np.ndarray, bool]:
    """Decode an image, resize its shorter side to `size` and crop the centre.

    Returns:
        (3, size, size) uint8, and whether the file is grey, as in `open_image`.

    Raises:
        ValueError: as in `open_image`.
    """
    picture = open_image(content)
    return fit(picture.pixels[np.newaxis], size)[0], picture.grey


def decode_all(
    content_of: Callable[[str], bytes], names: Sequence[str], size: int, path: Path, *, white: int = WHITE
) -> tuple[ArrayFile, dict[int, str]]:
    """Decode many files into one file of pixels, each image brought to `size` by `geometry.fit`; see `prepare_all`."""
    decoded: Decoded[None] = prepare_all(content_of, _fit, names, size, path, white=white)
    for line in decoded.remarks(names, white):
        print(line)
    return decoded.images, decoded.unreadable


@dataclass
class Decoded(Generic[T]):
    """The images of many files."""

    images: ArrayFile  # (N, C, size, size) uint8, C being 1 if all files are grey, otherwise 3
    unreadable: dict[int, str] = field(default_factory=dict)  # row -> reason; its pixels are 0
    notes: dict[int, T] = field(default_factory=dict)  # row -> what `prepare` returned
    pages: dict[int, int] = field(default_factory=dict)  # row -> number of pages, if there are several
    brightest: int | None = None  # the largest value of all grey files of 16 bits; None if there are none
    brightest_colour: int | None = None  # the largest of 256 levels of all files of 16 bits in colour

    def remarks(self, names: Sequence[str], white: int) -> list[str]:
        """Return lines about what the pixels do not show: pages that are not used, and bits that are not."""
        lines = []
        if self.pages:
            row, pages = next(iter(self.pages.items()))
            lines.append(
                f"several pages: {len(self.pages):,} file(s), such as {names[row]} with {pages}; only the first page "
                "is used; save the others as files of their own"
            )
        if self.brightest is not None and self.brightest * 2 <= white:
            bits = max(1, self.brightest.bit_length())
            lines.append(
                f"dark: the images of 16 bits reach {self.brightest:,} of {white:,}, which leaves "
                f"{round(self.brightest * 255 / white) + 1} of 256 grey levels; if their white is {(1 << bits) - 1:,} "
                f"({bits} bits), set max_pixel_value to that"
            )
        if self.brightest_colour is not None and self.brightest_colour < HALF:
            lines.append(
                f"dark: the images of 16 bits in colour use {self.brightest_colour + 1} of 256 levels; save them "
                "scaled to 8 bits"
            )
        return lines


def prepare_all(
    content_of: Callable[[str], bytes],
    prepare: Callable[[np.ndarray, int], tuple[np.ndarray, T | None]],
    names: Sequence[str],
    size: int,
    path: Path,
    bar: "tqdm[Any] | None" = None,
    *,
    white: int = WHITE,
) -> Decoded[T]:
    """Decode many files into one file of pixels, with as many processes as there are processors.

    Args:
        content_of: returns the bytes of a file; may raise ValueError or OSError. It is sent to worker processes.
        prepare: turns an image (3, H, W) uint8 and `size` into pixels (3, size, size) uint8 and a note on the image,
            or None; may raise ValueError. It is sent to worker processes.
        names: of the files.
        size: pixels per side.
        path: of the file to write, which needs 3 * size * size bytes per image.
        bar: advanced by one per image; None: a new one, shown on a terminal.
        white: the largest value of 16 bits, as in `open_image`.

    Raises:
        UserError: a worker process was killed.
        OSError: the file of pixels cannot be written.
    """
    shape = (len(names), 3, size, size)
    with with_file_name(path), path.open("wb") as file:
        file.truncate(math.prod(shape))
    decoded: Decoded[T] = Decoded(ArrayFile(path, shape, np.dtype(np.uint8), 0))
    all_grey = True
    if len(names) >= FEW:
        import torch  # noqa: F401  # once for all workers, which are forked from this process

    if bar is None:
        bar = tqdm(total=len(names), desc="decoding", unit=" images", disable=None)
    processes = ProcessPoolExecutor(os.cpu_count(), initializer=_start_worker)
    try:
        one = partial(_prepare_one, content_of, prepare, size, path, white)
        rows = range(len(names))
        results = map(one, rows, names) if len(names) < FEW else processes.map(one, rows, names, chunksize=CHUNK)
        for row, result in enumerate(results):
            bar.update()
            if isinstance(result, str):
                decoded.unreadable[row] = result
                continue
            all_grey &= result.grey
            if result.note is not None:
                decoded.notes[row] = result.note
            if result.pages > 1:
                decoded.pages[row] = result.pages
            if result.brightest is not None:
                decoded.brightest = max(result.brightest, decoded.brightest or 0)
            if result.brightest_colour is not None:
                decoded.brightest_colour = max(result.brightest_colour, decoded.brightest_colour or 0)
    except BrokenProcessPool as error:
        raise UserError("a process that decodes images was killed, perhaps out of memory; run it again") from error
    finally:
        processes.shutdown(cancel_futures=True)
    if all_grey:
        decoded.images = replace(decoded.images, convert=_first_channel)
    return decoded


class Prepared(NamedTuple, Generic[T]):
    """What is known of a decoded image besides its pixels."""

    grey: bool
    brightest: int | None
    brightest_colour: int | None
    pages: int
    note: T | None


def _prepare_one(
    content_of: Callable[[str], bytes],
    prepare: Callable[[np.ndarray, int], tuple[np.ndarray, T | None]],
    size: int,
    path: Path,
    white: int,
    row: int,
    name: str,
) -> Prepared[T] | str:
    """Write the pixels of an image to the file. Returns what else is known of it, or why it cannot be read."""
    try:
        picture = open_image(content_of(name), name, white=white)
        pixels, note = prepare(picture.pixels, size)
    except (ValueError, OSError) as error:
        return reason(error)
    with with_file_name(path), path.open("r+b") as file:
        file.seek(row * pixels.nbytes)
        file.write(pixels.tobytes())
    return Prepared(picture.grey, picture.brightest, picture.brightest_colour, picture.pages, note)


def _fit(pixels: np.ndarray, size: int) -> tuple[np.ndarray, None]:
    return fit(pixels[np.newaxis], size)[0], None


def _first_channel(rows: np.ndarray) -> np.ndarray:
    return rows[:, :1]


def _start_worker() -> None:
    """Ignore SIGINT and SIGTERM, which the parent process handles, use one thread, and close stderr."""
    import torch

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write remarks there
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_IGN)
