"""The folder data/normalized/: what normalize writes and cache reads.

{train,val,test}_images.npy    (N, C, H, W) uint8
{train,val,test}_targets.npy   (N,) int64, class numbers, or (N, quantities) float64 in their own units
{train,val,test}_index.npy     (N,) int64, the row of the source that each image was
statistics.json                the `DataDescription` and the sha256 of each of these files; sealed
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from stages.lib.description import DataDescription
from stages.lib.files import write_text
from stages.lib.sealed import seal, unseal
from stages.lib.stage import UserError, reason

SPLITS = ("train", "val", "test")
ARRAYS = ("images", "targets", "index")
STATISTICS = "statistics.json"


def write_split(folder: Path, split: str, images: np.ndarray, targets: np.ndarray, index: np.ndarray) -> dict[str, str]:
    """Write the three arrays of one split; file name -> sha256 (hex) of each."""
    return {
        f"{split}_{name}.npy": _write_array(folder / f"{split}_{name}.npy", array)
        for name, array in zip(ARRAYS, (images, targets, index), strict=True)
    }


def write_statistics(folder: Path, description: DataDescription, sha256: Mapping[str, str]) -> None:
    """Write statistics.json, last: it vouches for the other files."""
    write_text(folder / STATISTICS, seal({**description.model_dump(mode="json"), "files": dict(sha256)}))


def read_statistics(folder: Path) -> tuple[DataDescription, dict[str, str]]:
    """The description of the data, and file name -> sha256 of the arrays.

    Raises:
        UserError: statistics.json is missing or damaged.
    """
    path = folder / STATISTICS
    try:
        fields = unseal(path.read_bytes())
        files = fields.pop("files")
        return DataDescription.model_validate(fields), files
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(path, reason(error)) from error


def read_split(folder: Path, split: str, sha256: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, targets and index of one split, mapped into memory and not copied.

    Raises:
        UserError: a file is missing, or not the one that `sha256`, from `read_statistics`, tells of.
    """
    images, targets, index = (_read_array(folder / f"{split}_{name}.npy", sha256) for name in ARRAYS)
    return images, targets, index


class _Hashing:
    """A file that hashes what is written to it; not one of Python's own, for which NumPy hides why a write failed."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.digest.update(content)
        return self.file.write(content)


def _write_array(path: Path, array: np.ndarray) -> str:
    with path.open("wb") as file:
        hashing = _Hashing(file)
        np.lib.format.write_array(hashing, array, allow_pickle=False)
    return hashing.digest.hexdigest()


def _read_array(path: Path, sha256: Mapping[str, str]) -> np.ndarray:
    try:
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != sha256.get(path.name):
                raise ValueError(f"not the file that {STATISTICS} tells of")
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise _damaged(path, reason(error)) from error
    return array


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: missing or damaged ({why}); `dvc repro --force normalize` makes it again")
