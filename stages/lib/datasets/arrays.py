"""Kind: images and targets in NumPy's files, for millions of images in few files.

images.npy    (N, H, W), (N, H, W, 3) or (N, 3, H, W) uint8
targets.npy   (N,) whole numbers from 0, classes; of a regression, (N,) or (N, quantities) real numbers

or, if the source has splits, train_images.npy, train_targets.npy, val_..., test_...
"""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.lib.core.errors import UserError, reason
from stages.lib.datasets.array_file import ArrayFile, unchanged
from stages.lib.datasets.kind import REGRESSION, TASKS, Contents, Download, Part, Reading
from stages.lib.datasets.raw import OriginalFiles, Raw

MOST_CLASSES = 1 << 20
PARTS = {"": "all", "train_": "train", "val_": "val", "test_": "test"}


class Arrays:
    """The user's arrays."""

    user_supplied: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = TASKS

    def fetch(self, download: Download) -> OriginalFiles:
        """Bring the user's files."""
        return download.bring(True)

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Read the targets; the images stay in their files."""
        try:
            raw.check()
        except (ValueError, OSError) as error:
            raise UserError(f"{raw.root}: {reason(error)}; run `dvc repro`, which looks at the source first") from error
        parts = {
            part: Part.whole(*read_part(raw, prefix, reading.task))
            for prefix, part in PARTS.items()
            if f"{prefix}images.npy" in raw.checksums
        }
        if len(parts.keys() & {"all", "train"}) != 1:
            raise UserError(
                f"{raw.root}: found {', '.join(sorted(raw.checksums)[:5])}; expected images.npy and targets.npy, or "
                "train_images.npy and train_targets.npy, and the same of val_ and test_ if they are divided already"
            )
        shapes = {part.images[:0].shape[1:] for part in parts.values()}
        if len(shapes) > 1:
            raise UserError(f"{raw.root}: found images of {sorted(shapes)}; expected one shape (C, H, W) for all parts")
        if reading.task != REGRESSION:
            if first := min(int(part.targets.min()) for part in parts.values()):
                raise UserError(
                    f"{raw.root}: the targets count from {first}; expected numbers from 0: save `targets - {first}`"
                )
            classes = max(int(part.targets.max()) for part in parts.values()) + 1
            return Contents(parts, tuple(map(str, range(classes))))
        quantities = {part.targets.shape[1] for part in parts.values()}
        if len(quantities) > 1:
            raise UserError(
                f"{raw.root}: the parts have {sorted(quantities)} quantities, expected the same number in all"
            )
        return Contents(parts, ("target",) if quantities == {1} else tuple(map(str, range(quantities.pop()))))


def read_part(raw: Raw, prefix: str, task: str) -> tuple[ArrayFile, np.ndarray]:
    """Return the images and targets of one part.

    Raises:
        UserError: a file is missing or not as described above, or there is not one target for each image.
    """
    images, targets = read_images(raw, f"{prefix}images.npy"), read_targets(raw, f"{prefix}targets.npy", task)
    if len(images) != len(targets):
        lengths = f"{len(images):,} images and {len(targets):,} targets"
        raise UserError(f"{raw.root}: {prefix}images.npy and {prefix}targets.npy have {lengths}")
    return images, targets


def read_images(raw: Raw, name: str) -> ArrayFile:
    """Return the images in a file, as (N, C, H, W) uint8.

    Raises:
        UserError: the file does not hold images.
    """
    array = _map(raw, name)
    sides = array.shape[1:]
    convert: Callable[[np.ndarray], np.ndarray] | None = None
    if len(sides) == 2:
        convert = _add_channel
    elif len(sides) == 3 and (sides[0] in (1, 3) or sides[2] in (1, 3)):
        convert = unchanged if sides[0] in (1, 3) else _channels_first
    if array.dtype != np.uint8 or convert is None or 0 in array.shape:
        raise UserError(
            f"{raw.root / name}: found {array.dtype} {array.shape}; "
            "expected uint8 (N, H, W), (N, H, W, 3) or (N, 3, H, W)"
        )
    return ArrayFile(raw.root / name, array.shape, array.dtype, array.offset, convert)


def read_targets(raw: Raw, name: str, task: str) -> np.ndarray:
    """Return class numbers (N,) int64, or quantities (N, quantities) float64.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if name not in raw.checksums:
        raise UserError(f"{raw.root / name}: not found; expected the targets of the images beside it")
    array = _map(raw, name)
    if task == REGRESSION:
        expected = "finite numbers, (N,) or (N, quantities)"
        if array.ndim in (1, 2) and array.dtype.kind in "iuf" and array.size:
            targets = np.array(array, np.float64).reshape(len(array), -1)
            _refuse_values(raw.root / name, array, np.asarray(~np.isfinite(targets).all(1)), expected)
            return targets
    else:
        expected = f"whole numbers from 0 to {MOST_CLASSES - 1:,}, one for each image"
        if array.ndim == 1 and array.dtype.kind in "iuf" and array.size:
            wrong = np.asarray((array < 0) | (array >= MOST_CLASSES) | np.isnan(array))
            _refuse_values(raw.root / name, array, wrong, expected)
            if array.dtype.kind != "f":
                return np.array(array, np.int64)
            if (array == np.floor(array)).all():
                expected += ": save `targets.astype(int)`"
    raise UserError(f"{raw.root / name}: found {array.dtype} {array.shape}; expected {expected}")


def _refuse_values(path: Path, array: np.ndarray, wrong: np.ndarray, expected: str) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(f"{path}: row {row} is {array[row]} ({wrong.sum():,} such rows); expected {expected}")


def _map(raw: Raw, name: str) -> np.memmap:
    try:
        array = np.load(raw.root / name, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
            raise ValueError("in Fortran's order, or no array of numbers; save `np.ascontiguousarray(array)`")
    except Exception as error:  # NumPy's parser of headers raises whatever it comes across
        raise UserError(f"{raw.root / name}: cannot be read as an array ({reason(error)})") from error
    return array


def _add_channel(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis]


def _channels_first(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2)
