"""Decoded images in files, a block of them in each, so that many processes can write them."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.lib.core.files import with_file_name
from stages.lib.datasets.array_file import ArrayFile, unchanged


@dataclass(frozen=True)
class PixelFiles:
    """Supports `len` and slices of rows, as an array does."""

    folder: Path
    shape: tuple[int, ...]  # as stored: number of rows, then the shape of a row, of uint8
    block: int  # rows in each file, except the last
    convert: Callable[[np.ndarray], np.ndarray] = unchanged  # applied to the rows that were read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(len(self))
        parts = [np.empty((0, *self.shape[1:]), np.uint8)]
        for start in range(first - first % self.block, last, self.block):
            shape = (min(self.block, len(self) - start), *self.shape[1:])
            file = ArrayFile(self.path(start), shape, np.dtype(np.uint8), 0)
            parts.append(file[max(0, first - start) : max(0, last - start)])
        return self.convert(np.concatenate(parts) if len(parts) > 2 else parts[-1])

    def path(self, first: int) -> Path:
        """Return the path of the file that begins with row `first`."""
        return self.folder / f"{first}.pixels"


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Write a file of pixels; it appears when it is whole. Two processes may write the same one.

    Raises:
        OSError: it cannot be written.
    """
    with with_file_name(path):
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with open(descriptor, "wb") as file:
            file.write(np.ascontiguousarray(pixels).data)
        os.replace(temporary, path)
