"""The interface of a kind of data sets: how its files are fetched, and how they are read.

A kind is one module with one class, and a line of `table.py` makes a data set of it. download calls `fetch`, normalize
calls `read`. Each stage hands over what only that stage imports: the mirrors, or the decoding of image files.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from stages.lib.datasets.raw import OriginalFiles, Raw

CLASSIFICATION, REGRESSION = "classification", "regression"
TASKS = (CLASSIFICATION, REGRESSION)

# Given the names of some files, returns what reads one of them: name -> bytes, which may raise ValueError or OSError.
# It is sent to other processes, so it should hold no more than these files need.
ReaderOf = Callable[[Sequence[str]], Callable[[str], bytes]]


class Rows(Protocol):
    """Images (N, C, H, W) uint8 in memory or in files: an array, or what supports `len` and slices of rows as one."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> np.ndarray: ...


# Decodes image files: how to read them, their names, and a folder to write the pixels to ->
# images (N, C, image_size, image_size) uint8, and row -> reason for each file that cannot be read.
Decode = Callable[[ReaderOf, Sequence[str], Path], tuple[Rows, dict[int, str]]]


@dataclass(frozen=True)
class File:
    """A published file."""

    md5: str  # hex
    size: int | None  # bytes; None: not known
    addresses: tuple[str, ...]  # in the order in which to try them

    @property
    def name(self) -> str:
        return self.addresses[0].rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Download:
    """Passed by download to `Kind.fetch`: where the files go, and two ways to get them."""

    folder: Path  # empty; becomes data/raw/dataset/files/
    fetch: Callable[[File], None]  # puts a published file into the folder, from a mirror that has it
    # Copies or unpacks the user's `source` into the folder, or leaves it in place; True: not if it is in a bucket.
    bring: Callable[[bool], OriginalFiles]


@dataclass(frozen=True)
class Reading:
    """Passed by normalize to `Kind.read`: two parameters, a place for temporary files, and the decoding of images."""

    task: str  # one of the kind's tasks
    unreadable_allowed: int  # image files of the user's that may be skipped
    scratch: Path  # an empty folder, removed once the images have been used
    decode: Decode


@dataclass(frozen=True)
class Part:
    """Images with targets, in the order of the source."""

    images: Rows  # (M, C, H, W) uint8, of which this part has N
    targets: np.ndarray  # (N,) int64, class numbers, or (N, quantities) float64
    index: np.ndarray  # (N,) int64, ascending: its rows of `images`, which are the rows of the source
    groups: np.ndarray | None = None  # (N,) int64; no two splits may share a group
    files: Sequence[str] | None = None  # if the rows of `images` are files: their M paths, shared by all parts

    @classmethod
    def whole(cls, images: Rows, targets: np.ndarray, files: Sequence[str] | None = None) -> "Part":
        """Return a part that has all of its images.

        Raises:
            ValueError: there is no image, or not one target for each.
        """
        if len(images) != len(targets) or not len(images):
            raise ValueError(f"{len(images)} images and {len(targets)} labels")
        return cls(images, targets, np.arange(len(targets)), files=files)

    def take(self, rows: np.ndarray) -> "Part":
        """Return some of the rows, which have to ascend."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, targets=self.targets[rows], index=self.index[rows], groups=groups)


class Contents(NamedTuple):
    """The images and targets of a data set, and the names of the targets."""

    parts: dict[str, Part]  # "train", "val", "test": the splits of the source itself; "all" if it has none
    labels: tuple[str, ...]  # names of the classes in the order of their numbers, or of a regression's quantities


class Kind(Protocol):
    """The interface of download and normalize to a data set."""

    user_supplied: ClassVar[bool]  # whether the files are the user's, named by params.yaml's `source`
    tasks: ClassVar[tuple[str, ...]]  # those that its targets allow

    def fetch(self, download: Download) -> OriginalFiles:
        """Get the files.

        Raises:
            UserError: a file is not available, or does not have the recorded checksum.
        """
        ...

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Read the files; the images of the parts may stay on disk.

        Raises:
            UserError: a file is missing or damaged, or its content is not as expected.
        """
        ...
