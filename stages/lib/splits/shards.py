"""A split on the disk: what normalize and cache write, and cache, train and evaluate read.

Each split has a folder:

00000.safetensors, ...  the shards, of at most SHARD bytes of pixels each, in the order of the rows:
                        images   (n, C, H, W) uint8, or standardized float32 or float16
                        targets  (n,) int64, class numbers, or (n, quantities) float64 in their own units
                        index    (n,) int64, the row of the source
                        Of test, if the rows of the source are files, also their paths below the source:
                        files      (bytes,) uint8, the paths in UTF-8, one after the other
                        file_ends  (n,) int64, where in `files` each path ends
split.json              the stage, the `DataDescription`, and of each shard its rows and sha256; sealed, written last

DVC hashes, links and transfers each file by itself, so none is large; and none holds more than its rows, so that the
shards that cache leaves as they were have the bytes of normalize's, and DVC stores them once. Nothing here holds more
than a shard in memory.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_text
from stages.lib.core.sealed import seal, unseal
from stages.lib.splits.description import DataDescription

SPLITS = ("train", "val", "test")
SPLIT = "split.json"
SHARD = 1 << 26  # bytes of pixels
# Of images.
TYPES: dict[str, np.dtype] = {"U8": np.dtype(np.uint8), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Strict):
    """One file of a split."""

    rows: int = Field(ge=1)
    sha256: str


class SplitFile(_Strict):
    """What split.json holds."""

    stage: str  # that wrote it: the folders of normalize and cache may not be one to DVC, which would then skip cache
    data: DataDescription
    shards: list[Shard] = Field(min_length=1)


class Writer:
    """Writes a split, some rows at a time."""

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        rows = max(1, SHARD // (math.prod(shape) * dtype.itemsize))
        self.images = np.empty((rows, *shape), dtype)  # of the shard under way
        self.labels: list[tuple[np.ndarray, np.ndarray]] = []  # targets and index of its rows
        self.files: list[str] = []
        self.filled = 0
        self.shards: list[Shard] = []

    def append(
        self, images: np.ndarray, targets: np.ndarray, index: np.ndarray, files: Sequence[str] | None = None
    ) -> None:
        """Add rows: (n, C, H, W), (n,) or (n, quantities), (n,), and n paths or None, the same for all rows of a split.

        A byte that makes a path no UTF-8 is written as Python shows it, such as `\\udcff`.
        """
        while len(images):
            some = min(len(images), len(self.images) - self.filled)
            self.images[self.filled : self.filled + some] = images[:some]
            self.labels.append((targets[:some], index[:some]))
            if files is not None:
                self.files += files[:some]
                files = files[some:]
            self.filled += some
            if self.filled == len(self.images):
                self._write()
            images, targets, index = images[some:], targets[some:], index[some:]

    def finish(self, description: DataDescription, stage: str) -> int:
        """Write what is left, and split.json, which vouches for it, in the name of a stage; the number of rows.

        Raises:
            UserError: a file cannot be written.
        """
        if self.filled:
            self._write()
        written = SplitFile(stage=stage, data=description, shards=self.shards)
        write_text(self.folder / SPLIT, seal(written.model_dump(mode="json")))
        return sum(shard.rows for shard in self.shards)

    def _write(self) -> None:
        path = self.folder / _name(len(self.shards))
        targets, index = (np.concatenate(parts) for parts in zip(*self.labels, strict=True))
        tensors = {"images": self.images[: self.filled], "targets": targets, "index": index}
        if self.files:
            names = [name.encode(errors="backslashreplace") for name in self.files]
            tensors["files"] = np.frombuffer(b"".join(names), np.uint8)
            tensors["file_ends"] = np.cumsum([len(name) for name in names], dtype=np.int64)
        try:
            save_file(tensors, path)
        except SafetensorError as error:  # names no cause that a program could ask for
            raise UserError(f"{path}: cannot be written ({reason(error)}); make room and run it again") from error
        self.shards.append(Shard(rows=self.filled, sha256=_sha256(path)))
        self.labels, self.files, self.filled = [], [], 0


@dataclass(frozen=True)
class OnDisk:
    """A split whose every bit is known to be the one that was written."""

    folder: Path
    description: DataDescription
    starts: tuple[int, ...]  # row at which each shard starts, and behind them the number of all rows
    dtype: np.dtype  # of the images
    sha256: str  # hex, of what split.json says, and so of all

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def bytes_of_a_row(self) -> int:
        return math.prod(self.description.shape) * self.dtype.itemsize

    def images(self, first: int, last: int) -> np.ndarray:
        """The images of rows `first` to before `last`: (n, C, H, W), in memory."""
        images = np.empty((last - first, *self.description.shape), self.dtype)
        self.read_into(images, first)
        return images

    def read_into(self, images: np.ndarray, first: int) -> None:
        """Fill (n, C, H, W) with the images from row `first` on."""
        last = first + len(images)
        for number, (start, end) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            low, high = max(first, start), min(last, end)
            if low < high:
                with safe_open(self.folder / _name(number), framework="np") as file:
                    images[low - first : high - first] = file.get_slice("images")[low - start : high - start]

    def labels(self, name: str) -> np.ndarray:
        """ "targets" or "index" of all rows."""
        parts = []
        for number in range(len(self.starts) - 1):
            with safe_open(self.folder / _name(number), framework="np") as file:
                parts.append(file.get_tensor(name))
        return np.concatenate(parts)

    def files(self) -> list[str] | None:
        """The paths of all rows below the source; None if the split names no files."""
        names: list[str] = []
        for number in range(len(self.starts) - 1):
            with safe_open(self.folder / _name(number), framework="np") as file:
                names += _files(file) or []
        return names or None


def read(folder: Path) -> OnDisk:
    """A split, every file of which is read once to see that its bits are those that were written.

    Raises:
        UserError: a file is missing, damaged, or not what a stage writes.
    """
    path = folder / SPLIT
    try:
        found = SplitFile.model_validate(unseal(path.read_bytes()))
        starts = [0]
        named = set()  # whether the shards name files
        for number, shard in enumerate(found.shards):
            path = folder / _name(number)
            if _sha256(path) != shard.sha256:
                raise ValueError(f"not the file that {SPLIT} tells of")
            with safe_open(path, framework="np") as file:
                images, targets, index = (file.get_slice(name) for name in ("images", "targets", "index"))
                if images.get_shape() != [shard.rows, *found.data.shape] or images.get_dtype() not in TYPES:
                    raise ValueError(f"images {images.get_shape()}, expected {[shard.rows, *found.data.shape]}")
                if targets.get_shape()[0] != shard.rows or index.get_shape() != [shard.rows]:
                    raise ValueError(f"{targets.get_shape()[0]} targets of {shard.rows} images")
                if targets.get_dtype() not in ("I64", "F64") or index.get_dtype() != "I64":
                    raise ValueError(f"targets {targets.get_dtype()}, index {index.get_dtype()}")
                dtype = TYPES[images.get_dtype()]
                files = _files(file)
                named.add(files is not None)
                if len(named) > 1 or (files is not None and len(files) != shard.rows):
                    raise ValueError("not as many file names as images")
            starts.append(starts[-1] + shard.rows)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        stage = "cache" if folder.parent.name == "tensors" else "normalize"
        raise UserError(
            f"{path}: missing or damaged ({reason(error)}); `dvc repro --force {stage}` makes it again"
        ) from error
    said = hashlib.sha256(found.model_dump_json().encode())  # not of its text, in which blanks mean nothing
    return OnDisk(folder, found.data, tuple(starts), dtype, said.hexdigest())


def _files(file: Any) -> list[str] | None:
    """The paths in an open shard; None if it has none.

    Raises:
        ValueError: they are damaged.
        SafetensorError: one of their two tensors is missing.
    """
    if not {"files", "file_ends"} & set(file.keys()):
        return None
    stored, place = file.get_slice("files"), file.get_slice("file_ends")
    if (stored.get_dtype(), len(stored.get_shape())) != ("U8", 1) or place.get_dtype() != "I64":
        raise ValueError(f"file names {stored.get_dtype()} {stored.get_shape()}, ends {place.get_dtype()}")
    ends = [0, *file.get_tensor("file_ends").ravel().tolist()]
    names = file.get_tensor("files").tobytes()
    if any(end <= start for start, end in pairwise(ends)) or ends[-1] != len(names):
        raise ValueError(f"file names that do not end where their {len(names)} bytes do")
    return [names[start:end].decode() for start, end in pairwise(ends)]


def _name(number: int) -> str:
    return f"{number:05}.safetensors"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
