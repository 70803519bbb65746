"""A split on disk: normalize and cache write it; cache, train and evaluate read it.

Each split has a folder:

00000.safetensors, ...  the shards, in the order of the rows, each of at most SHARD bytes of pixels:
                        images   (n, C, H, W) uint8, or standardized float32 or float16
                        targets  (n,) int64, class numbers, or (n, quantities) float64, in the units of the source
                        index    (n,) int64, the row of the source
                        in test, if the rows of the source are files, also their paths below the source:
                        files      (bytes,) uint8, the paths in UTF-8, concatenated
                        file_ends  (n,) int64, where in `files` each path ends
split.json              the stage, the `DataDescription`, and the rows and sha256 of each shard; sealed, written last

DVC hashes, links and transfers each file by itself, so no shard is large. A shard holds nothing but its rows, so the
shards that cache leaves unchanged have the bytes of normalize's, and DVC stores them once. Neither writing nor reading
holds more than one shard in memory.
"""

import hashlib
import math
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import sha256_of, write_text
from stages.lib.core.sealed import seal, unseal
from stages.lib.splits.description import DataDescription, FrozenModel

SPLIT = "split.json"
SHARD = 1 << 26  # bytes of pixels
# The types of images, by their names in safetensors.
TYPES: dict[str, np.dtype] = {"U8": np.dtype(np.uint8), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}


class Shard(FrozenModel):
    """One shard, as split.json describes it."""

    rows: int = Field(ge=1)
    sha256: str


class SplitFile(FrozenModel):
    """The content of split.json."""

    stage: str  # the writer; keeps the hashes of the two folders distinct, so that DVC does not skip `cache`
    data: DataDescription
    shards: list[Shard] = Field(min_length=1)


class Writer:
    """Writes a split, a block of rows at a time."""

    def __init__(self, folder: Path, shape: tuple[int, int, int], dtype: np.dtype) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.images = np.empty((rows_of_a_shard(shape, dtype), *shape), dtype)  # of the current shard
        self.labels: list[tuple[np.ndarray, np.ndarray]] = []  # targets and index of its rows
        self.files: list[str] = []
        self.filled = 0
        self.shards: list[Shard] = []

    def append(
        self, images: np.ndarray, targets: np.ndarray, index: np.ndarray, files: Sequence[str] | None = None
    ) -> None:
        """Append rows, as in `write_shard`: with n paths, or None for all rows of the split."""
        while len(images):
            count = min(len(images), len(self.images) - self.filled)
            self.images[self.filled : self.filled + count] = images[:count]
            self.labels.append((targets[:count], index[:count]))
            if files is not None:
                self.files += files[:count]
                files = files[count:]
            self.filled += count
            if self.filled == len(self.images):
                self._write()
            images, targets, index = images[count:], targets[count:], index[count:]

    def finish(self, description: DataDescription, stage: str) -> int:
        """Write the last shard, then split.json, which vouches for all of them. Returns the number of rows.

        Args:
            description: of the data.
            stage: the one that writes.

        Raises:
            UserError: a file cannot be written.
        """
        if self.filled:
            self._write()
        return write_description(self.folder, self.shards, description, stage)

    def _write(self) -> None:
        path = shard_path(self.folder, len(self.shards))
        targets, index = (np.concatenate(parts) for parts in zip(*self.labels, strict=True))
        self.shards.append(write_shard(path, self.images[: self.filled], targets, index, self.files))
        self.labels, self.files, self.filled = [], [], 0


def rows_of_a_shard(shape: tuple[int, int, int], dtype: np.dtype) -> int:
    """Return the number of images (C, H, W) in each shard but the last."""
    return max(1, SHARD // (math.prod(shape) * dtype.itemsize))


def shard_path(folder: Path, number: int) -> Path:
    """Return the path of a shard; they count from 0."""
    return folder / f"{number:05}.safetensors"


def write_shard(
    path: Path, images: np.ndarray, targets: np.ndarray, index: np.ndarray, files: Sequence[str] | None = None
) -> Shard:
    """Write a shard: (n, C, H, W), (n,) or (n, quantities), (n,), and n paths, or none.

    Bytes of a path that are not UTF-8 are escaped as Python does, such as `\\udcff`. The file appears when it is whole:
    another process may write the same one.

    Raises:
        UserError: it cannot be written.
    """
    tensors = {"images": images, "targets": targets, "index": index}
    if files:
        names = [name.encode(errors="backslashreplace") for name in files]
        tensors["files"] = np.frombuffer(b"".join(names), np.uint8)
        tensors["file_ends"] = np.cumsum([len(name) for name in names], dtype=np.int64)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, temporary)
    except SafetensorError as error:  # it does not say whether the disk is full
        temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({reason(error)}); free some space and run it again") from error
    shard = Shard(rows=len(images), sha256=sha256_of(temporary))
    os.replace(temporary, path)
    return shard


def write_description(folder: Path, shards: list[Shard], description: DataDescription, stage: str) -> int:
    """Write split.json, which vouches for all shards. Returns the number of rows.

    Args:
        folder: of the split; files of processes that were killed are removed.
        shards: that are in it.
        description: of the data.
        stage: the one that writes.

    Raises:
        OSError: the file cannot be written.
    """
    for left_behind in folder.glob(".*.tmp"):
        left_behind.unlink(missing_ok=True)
    content = SplitFile(stage=stage, data=description, shards=shards)
    write_text(folder / SPLIT, seal(content.model_dump(mode="json")))
    return sum(shard.rows for shard in shards)


@dataclass(frozen=True)
class OnDisk:
    """A split whose files have been compared with their checksums."""

    folder: Path
    description: DataDescription
    starts: tuple[int, ...]  # first row of each shard, then the number of all rows
    dtype: np.dtype  # of the images
    sha256: str  # hex, of the content of split.json, and so of all files

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def bytes_of_a_row(self) -> int:
        return math.prod(self.description.shape) * self.dtype.itemsize

    def images(self, first: int, last: int) -> np.ndarray:
        """Return the images of rows `first` to `last` - 1: (n, C, H, W), in memory."""
        images = np.empty((last - first, *self.description.shape), self.dtype)
        self.read_into(images, first)
        return images

    def read_into(self, images: np.ndarray, first: int) -> None:
        """Fill `images` (n, C, H, W) with the images from row `first` on."""
        last = first + len(images)
        for number, (start, end) in enumerate(zip(self.starts, self.starts[1:], strict=False)):
            low, high = max(first, start), min(last, end)
            if low < high:
                with safe_open(shard_path(self.folder, number), framework="np") as file:
                    images[low - first : high - first] = file.get_slice("images")[low - start : high - start]

    def labels(self, name: str) -> np.ndarray:
        """Return the "targets" or the "index" of all rows."""
        parts = []
        for number in range(len(self.starts) - 1):
            with safe_open(shard_path(self.folder, number), framework="np") as file:
                parts.append(file.get_tensor(name))
        return np.concatenate(parts)

    def files(self) -> list[str] | None:
        """Return the paths of all rows below the source; None if the split names no files."""
        names: list[str] = []
        for number in range(len(self.starts) - 1):
            with safe_open(shard_path(self.folder, number), framework="np") as file:
                names += _files(file) or []
        return names or None


def read(folder: Path) -> OnDisk:
    """Open a split, and compare each of its files with its checksum.

    Raises:
        UserError: a file is missing or damaged, or is not what a stage writes.
    """
    path = folder / SPLIT
    try:
        content = SplitFile.model_validate(unseal(path.read_bytes()))
        starts = [0]
        name_files = set()  # whether the shards do
        for number, shard in enumerate(content.shards):
            path = shard_path(folder, number)
            if sha256_of(path) != shard.sha256:
                raise ValueError(f"not the file that {SPLIT} describes")
            with safe_open(path, framework="np") as file:
                images, targets, index = (file.get_slice(name) for name in ("images", "targets", "index"))
                if images.get_shape() != [shard.rows, *content.data.shape] or images.get_dtype() not in TYPES:
                    raise ValueError(f"images {images.get_shape()}, expected {[shard.rows, *content.data.shape]}")
                if targets.get_shape()[0] != shard.rows or index.get_shape() != [shard.rows]:
                    raise ValueError(f"{targets.get_shape()[0]} targets of {shard.rows} images")
                if targets.get_dtype() not in ("I64", "F64") or index.get_dtype() != "I64":
                    raise ValueError(f"targets {targets.get_dtype()}, index {index.get_dtype()}")
                dtype = TYPES[images.get_dtype()]
                files = _files(file)
                name_files.add(files is not None)
                if len(name_files) > 1 or (files is not None and len(files) != shard.rows):
                    raise ValueError("not as many file names as images")
            starts.append(starts[-1] + shard.rows)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        stage = "cache" if folder.parent.name == "tensors" else "normalize"
        raise UserError(
            f"{path}: missing or damaged ({reason(error)}); `dvc repro --force {stage}` makes it again"
        ) from error
    sha256 = hashlib.sha256(content.model_dump_json().encode())  # of the fields: blanks in the file make no difference
    return OnDisk(folder, content.data, tuple(starts), dtype, sha256.hexdigest())


def _files(file: Any) -> list[str] | None:
    """Return the paths in an open shard; None if it has none.

    Raises:
        ValueError: they are damaged.
        SafetensorError: one of their two tensors is missing.
    """
    if not {"files", "file_ends"} & set(file.keys()):
        return None
    paths, ends = file.get_slice("files"), file.get_slice("file_ends")
    if (paths.get_dtype(), len(paths.get_shape())) != ("U8", 1) or ends.get_dtype() != "I64":
        raise ValueError(f"file names {paths.get_dtype()} {paths.get_shape()}, ends {ends.get_dtype()}")
    bounds = [0, *file.get_tensor("file_ends").ravel().tolist()]
    text = file.get_tensor("files").tobytes()
    if any(end <= start for start, end in pairwise(bounds)) or bounds[-1] != len(text):
        raise ValueError(f"file names that do not end where their {len(text)} bytes do")
    return [text[start:end].decode() for start, end in pairwise(bounds)]
