"""One shard of a split: its images in the geometry of all, written to its file, hashed and counted.

A process on this machine or on another one fits a shard; what it returns is small.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from stages.lib.datasets.kind import Rows
from stages.lib.preprocessing import duplicates, geometry, pixel_statistics
from stages.lib.splits.shards import Shard, write_shard

BLOCK = 1 << 23  # bytes of original pixels at a time
GAP = 1 << 16  # bytes that are read to no purpose rather than skipped


@dataclass(frozen=True)
class Unfitted:
    """The rows of a shard."""

    images: Rows  # (M, C, H, W) uint8, of the source
    index: np.ndarray  # (n,) int64, ascending: the rows of `images` in the shard
    targets: np.ndarray  # (n,) int64 or (n, quantities) float64
    files: Sequence[str] | None  # the paths of the n images, to be stored
    size: int  # pixels a side
    path: Path | None  # of the file to write; None: only hash the images


class Fitted(NamedTuple):
    """What is known of a shard besides its content."""

    shard: Shard | None  # None if it was not to be written
    digests: np.ndarray  # (n,) uint64, of `duplicates.digests`
    counts: np.ndarray  # (C, 256) int64, of `pixel_statistics.count_values`


def fit_shard(rows: Unfitted) -> Fitted:
    """Read the images of a shard, a block at a time, resize and crop them, write them, hash them, count their values.

    Raises:
        UserError: the file cannot be written.
        OSError: the images cannot be read.
    """
    channels = rows.images[:1].shape[1]
    images = np.empty((len(rows.index), channels, rows.size, rows.size), np.uint8)
    filled = 0
    for block in read_blocks(rows.images, rows.index):
        images[filled : filled + len(block)] = geometry.fit(block, rows.size)
        filled += len(block)
    shard = write_shard(rows.path, images, rows.targets, rows.index, rows.files) if rows.path else None
    return Fitted(shard, duplicates.digests(images), pixel_statistics.count_values(images))


def read_blocks(images: Rows, index: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the images of ascending rows, those that are near to each other in one read."""
    row_size = max(1, images[:1].nbytes)
    near = max(1, GAP // row_size)
    most = max(1, BLOCK // row_size)
    start = 0
    while start < len(index):
        end = int(np.searchsorted(index, index[start] + most))
        gaps = np.flatnonzero(np.diff(index[start:end]) > near)
        end = start + int(gaps[0]) + 1 if len(gaps) else end
        first, last = int(index[start]), int(index[end - 1]) + 1
        block = images[first:last]
        yield block if end - start == last - first else block[index[start:end] - first]
        start = end
