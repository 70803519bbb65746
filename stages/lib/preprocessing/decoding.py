"""Decode many image files into pixels of one geometry, a block of files in each task of many processes."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from tqdm import tqdm

from stages.lib.core.errors import reason
from stages.lib.datasets.kind import ReaderOf
from stages.lib.preprocessing.geometry import fit
from stages.lib.preprocessing.pillow_image import WHITE, open_image
from stages.lib.preprocessing.pixel_files import PixelFiles, write_pixels
from stages.lib.preprocessing.processes import Map

FEW = 64  # images; fewer are decoded in this process
HALF = 128  # of 256 levels
FEWEST, MOST = 16, 1 << 26  # images in a block, and bytes of their pixels
BLOCKS = 1000  # how many to aim for within these limits

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
    reader_of: ReaderOf, names: Sequence[str], size: int, folder: Path, run: Map, *, white: int = WHITE
) -> tuple[PixelFiles, dict[int, str]]:
    """Decode many files, each image brought to `size` by `geometry.fit`; see `prepare_all`."""
    decoded: Decoded[None] = prepare_all(reader_of, _fit, names, size, folder, run, white=white)
    for line in decoded.remarks(names, white):
        print(line)
    return decoded.images, decoded.unreadable


@dataclass
class Decoded(Generic[T]):
    """The images of many files."""

    images: PixelFiles  # (N, C, size, size) uint8, C being 1 if all files are grey, otherwise 3
    unreadable: dict[int, str] = field(default_factory=dict)  # row -> reason; its pixels are 0
    notes: dict[int, T] = field(default_factory=dict)  # row -> what `prepare` returned
    pages: dict[int, int] = field(default_factory=dict)  # row -> number of pages, if there are several
    brightest: int | None = None  # the largest value of all grey files of 16 bits; None if there are none
    brightest_colour: int | None = None  # the largest of 256 levels of all files of 16 bits in colour

    def add(self, row: int, image: "Prepared[T]") -> None:
        """Record what is known of an image."""
        if image.note is not None:
            self.notes[row] = image.note
        if image.pages > 1:
            self.pages[row] = image.pages
        if image.brightest is not None:
            self.brightest = max(image.brightest, self.brightest or 0)
        if image.brightest_colour is not None:
            self.brightest_colour = max(image.brightest_colour, self.brightest_colour or 0)

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
    reader_of: ReaderOf,
    prepare: "Prepare[T]",
    names: Sequence[str],
    size: int,
    folder: Path,
    run: Map,
    bar: "tqdm[Any] | None" = None,
    *,
    white: int = WHITE,
) -> Decoded[T]:
    """Decode many files into files of pixels.

    Args:
        reader_of: what reads some of the files.
        prepare: turns an image (3, H, W) uint8 and `size` into pixels (3, size, size) uint8 and a note on the image,
            or None; may raise ValueError. It is sent to other processes.
        names: of the files.
        size: pixels per side.
        folder: to write the pixels to, 3 * size * size bytes per image; it must not exist.
        run: decodes the blocks; a few files are decoded in this process.
        bar: advanced by one per image; None: a new one, shown on a terminal.
        white: the largest value of 16 bits, as in `open_image`.

    Raises:
        UserError: a process was killed.
        OSError: the pixels cannot be written.
    """
    folder.mkdir()
    shape = (3, size, size)
    images = PixelFiles(folder, (len(names), *shape), max(FEWEST, min(MOST // math.prod(shape), len(names) // BLOCKS)))
    decoded: Decoded[T] = Decoded(images)
    if len(names) < FEW:
        run = map
    else:
        import torch  # noqa: F401  # once for all processes that are forked from this one

    def blocks() -> Iterator[Block[T]]:
        for first in range(0, len(names), images.block):
            some_names = names[first : first + images.block]
            yield Block(reader_of(some_names), prepare, some_names, size, white, images.path(first))

    if bar is None:
        bar = tqdm(total=len(names), desc="decoding", unit=" images", disable=None)
    row, all_grey = 0, True
    for block in run(prepare_block, blocks()):
        for result in block:
            if isinstance(result, str):
                decoded.unreadable[row] = result
            else:
                all_grey &= result.grey
                decoded.add(row, result)
            row += 1
        bar.update(len(block))
        if decoded.unreadable:
            bar.set_postfix(unreadable=len(decoded.unreadable), refresh=False)
    if all_grey:
        decoded.images = replace(images, convert=_first_channel)
    return decoded


class Prepared(NamedTuple, Generic[T]):
    """What is known of a decoded image besides its pixels."""

    grey: bool
    brightest: int | None
    brightest_colour: int | None
    pages: int
    note: T | None


Prepare = Callable[[np.ndarray, int], tuple[np.ndarray, T | None]]


@dataclass(frozen=True)
class Block(Generic[T]):
    """Files to decode, and how."""

    read: Callable[[str], bytes]
    prepare: Prepare[T]
    names: Sequence[str]
    size: int
    white: int
    path: Path  # of the file to write


def prepare_block(block: Block[T]) -> list[Prepared[T] | str]:
    """Write the pixels of a block to its file. Returns what else is known of each image, or why it cannot be read.

    Raises:
        OSError: the file cannot be written, or reading fails for another reason than that a file is not there.
    """
    pixels = np.zeros((len(block.names), 3, block.size, block.size), np.uint8)
    results: list[Prepared[T] | str] = []
    for row, name in enumerate(block.names):
        try:
            picture = open_image(block.read(name), name, white=block.white)
            pixels[row], note = block.prepare(picture.pixels, block.size)
        except (ValueError, OSError) as error:
            if is_failure(error):
                raise
            results.append(reason(error))
            continue
        results.append(Prepared(picture.grey, picture.brightest, picture.brightest_colour, picture.pages, note))
    write_pixels(block.path, pixels)
    return results


def is_failure(error: Exception) -> bool:
    """Return whether the disk or the network has failed, rather than that a file is no image or is not there."""
    expected = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    return isinstance(error, OSError) and error.errno is not None and not isinstance(error, expected)


def _fit(pixels: np.ndarray, size: int) -> tuple[np.ndarray, None]:
    return fit(pixels[np.newaxis], size)[0], None


def _first_channel(rows: np.ndarray) -> np.ndarray:
    return rows[:, :1]
