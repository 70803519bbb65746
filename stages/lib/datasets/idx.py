"""Kind: files in the format of MNIST, called IDX, gzipped.

An IDX file is a header and an array, big-endian: byte 2 is the type (8: uint8, 12: int32), byte 3 the number of
dimensions, then come 4 bytes for the size of each dimension. http://yann.lecun.com/exdb/mnist/

Why own code: torchvision's reader takes seconds to import, and holds all images in memory.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.lib.datasets.archives import unpack
from stages.lib.datasets.array_file import ArrayFile
from stages.lib.datasets.kind import CLASSIFICATION, Contents, Download, File, Part, Reading
from stages.lib.datasets.published import MOST_FILES, checked, damage_refused, fetch_files
from stages.lib.datasets.raw import OriginalFiles, Raw

TYPES: dict[int, np.dtype] = {8: np.dtype(np.uint8), 12: np.dtype(">i4")}


@dataclass(frozen=True)
class Idx:
    """Four IDX files: images and labels of train, then of test."""

    user_supplied: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFICATION,)

    files: tuple[File, ...]  # the four, or one archive that holds them
    classes: tuple[str, ...]
    prefix: str | None = None  # if the four are in an archive: what their names begin with
    first: int = 0  # the label of the first class
    transposed: bool = False  # whether rows and columns of each image are exchanged
    most_bytes: int = 1 << 28  # of all unpacked files

    def fetch(self, download: Download) -> OriginalFiles:
        """Fetch the files as they are published."""
        return fetch_files(self.files, download)

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Unpack the files; the images stay in them."""
        with damage_refused(raw):
            raw.check()
            if self.prefix:
                archive = raw.root / self.files[0].name
                unpack(archive, reading.scratch, most_bytes=self.most_bytes, most_files=MOST_FILES)
                packed = [
                    path
                    for part in ("train", "test")
                    for path in sorted(reading.scratch.glob(f"*/{self.prefix}{part}-*.gz"))
                ]
            else:
                packed = [raw.root / file.name for file in self.files]
            for path in packed:
                unpack(path, reading.scratch, most_bytes=self.most_bytes)
            arrays = iter([read_array(reading.scratch / path.stem) for path in packed])
            parts = {}
            for part, images, labels in zip(("train", "test"), arrays, arrays, strict=True):
                numbers = labels[:].astype(np.int64)
                if numbers.ndim == 2:
                    numbers = numbers[:, 0]  # QMNIST: the class, then the writer and the origin of the image
                with_channel = replace(images, convert=_add_channel_and_transpose if self.transposed else _add_channel)
                parts[part] = Part.whole(with_channel, numbers - self.first)
            return checked(parts, self.classes)


def read_array(path: Path) -> ArrayFile:
    """Return the array in an IDX file; its values stay in the file.

    Raises:
        ValueError: the file has another format, or another size than its header says.
    """
    with path.open("rb") as file:
        head = file.read(4)
        sizes = np.fromfile(file, ">u4", head[3] if len(head) == 4 else 0)
    if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in TYPES or len(sizes) != head[3] or not len(sizes):
        raise ValueError(f"{path.name}: not a file in the format of MNIST")
    dtype = TYPES[head[2]]
    shape, offset = tuple(map(int, sizes)), 4 + 4 * len(sizes)
    expected = offset + math.prod(shape) * dtype.itemsize
    if path.stat().st_size != expected:
        raise ValueError(f"{path.name}: {path.stat().st_size:,} bytes, expected {expected:,}")
    return ArrayFile(path, shape, dtype, offset)


def _add_channel(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis]


def _add_channel_and_transpose(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis].swapaxes(2, 3)
