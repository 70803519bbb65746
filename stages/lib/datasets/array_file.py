"""An array in a file, read some rows at a time: one that is mapped fills the memory as it is read."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np


def as_they_are(rows: np.ndarray) -> np.ndarray:
    """The rows as they are stored."""
    return rows


@dataclass(frozen=True)
class ArrayFile:
    """Sliced like an array, by rows alone."""

    path: Path
    shape: tuple[int, ...]  # rows, and what each holds
    dtype: np.dtype
    offset: int  # bytes before the first row
    arrange: Callable[[np.ndarray], np.ndarray] = as_they_are  # done to the rows that were read

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        first, last, _ = rows.indices(len(self))
        numbers = math.prod(self.shape[1:])
        start = self.offset + first * numbers * self.dtype.itemsize
        content = np.fromfile(self.path, self.dtype, (last - first) * numbers, offset=start)
        return self.arrange(content.reshape(last - first, *self.shape[1:]))
