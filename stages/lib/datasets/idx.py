"""Files in the format of MNIST, which its makers call IDX: a few whole numbers, and behind them an array.

byte 2 says of which type (8: bytes, 12: 32 bits), byte 3 how many sides, and 4 bytes for each side how long it is; all
in big-endian order. http://yann.lecun.com/exdb/mnist/
"""

import math
from pathlib import Path

import numpy as np

from stages.lib.datasets.array_file import ArrayFile

TYPES: dict[int, np.dtype] = {8: np.dtype(np.uint8), 12: np.dtype(">i4")}


def read(path: Path) -> ArrayFile:
    """The array in a file, which is not read yet.

    Raises:
        ValueError: the file is of another format, or shorter or longer than it says.
    """
    with path.open("rb") as file:
        head = file.read(4)
        sides = np.fromfile(file, ">u4", head[3] if len(head) == 4 else 0)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or len(sides) != head[3] or not len(sides):
        raise ValueError(f"{path.name}: not a file in the format of MNIST")
    dtype = TYPES[head[2]]
    shape, offset = tuple(map(int, sides)), 4 + 4 * len(sides)
    expected = offset + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name}: {path.stat().st_size:,} bytes, expected {expected:,}")
    return ArrayFile(path, shape, dtype, offset)
