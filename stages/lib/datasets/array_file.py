"""An array in a file, read a slice of rows at a time. A memory map would fill the memory as it is read."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def unchanged(rows: np.ndarray) -> np.ndarray:
    """Return the rows as they are stored."""
    return rows


@dataclass(frozen=True)
class ArrayFile:
    """Supports `len` and slices of rows, as an array does."""

    path: Path
    shape: tuple[int, ...]  # as stored: number of rows, then the shape of a row
    dtype: np.dtype
    offset: int  # bytes before the first row
    convert: Callable[[np.ndarray], np.ndarray] = unchanged  # applied to the rows that were read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(len(self))
        row_size = math.prod(self.shape[1:])
        start = self.offset + first * row_size * self.dtype.itemsize
        content = np.fromfile(self.path, self.dtype, (last - first) * row_size, offset=start)
        return self.convert(content.reshape(last - first, *self.shape[1:]))
