"""Kind: images and targets in NumPy's files, for millions of images in few files.

images.npy    (N, H, W), (N, H, W, 3) or (N, 3, H, W) uint8
targets.npy   (N,) whole numbers from 0, classes; of a regression, (N,) or (N, quantities) real numbers

or, if the source has splits, train_images.npy, train_targets.npy, val_..., test_...
"""

from collections.abc import Callable
from typing import ClassVar

import numpy as np

from stages.lib.core.errors import UserError, reason
from stages.lib.datasets.array_file import ArrayFile, unchanged
from stages.lib.datasets.kind import REGRESSION, TASKS, Contents, Download, Part, Reading
from stages.lib.datasets.raw import OriginalFiles, Raw

PARTS = {"": "all", "train_": "train", "val_": "val", "test_": "test"}


class Arrays:
    """The user's arrays."""

    user_supplied: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = TASKS

    def fetch(self, download: Download) -> OriginalFiles:
        """Bring the user's files."""
        return download.bring()

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Read the targets; the images stay in their files."""
        try:
            raw.check()
        except (ValueError, OSError) as error:
            raise UserError(f"{raw.root}: {reason(error)}; run `dvc repro`, which looks at the source first") from error
        parts = {
            part: Part.whole(*read_part(raw, prefix, reading.task))
            for prefix, part in PARTS.items()
            if f"{prefix}images.npy" in raw.sha256
        }
        if len(parts.keys() & {"all", "train"}) != 1:
            raise UserError(
                f"{raw.root}: found {', '.join(sorted(raw.sha256)[:5])}; expected images.npy and targets.npy, or "
                "train_images.npy and train_targets.npy, and the same of val_ and test_ if they are divided already"
            )
        shapes = {part.images[:0].shape[1:] for part in parts.values()}
        if len(shapes) > 1:
            raise UserError(f"{raw.root}: found images of {sorted(shapes)}; expected one shape (C, H, W) for all parts")
        if reading.task != REGRESSION:
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
    if name not in raw.sha256:
        raise UserError(f"{raw.root / name}: not found; expected the targets of the images beside it")
    array = _map(raw, name)
    if task == REGRESSION:
        if array.ndim in (1, 2) and array.dtype.kind in "iuf" and np.isfinite(array).all() and array.size:
            return np.array(array, np.float64).reshape(len(array), -1)
        expected = "finite numbers, (N,) or (N, quantities)"
    else:
        if array.ndim == 1 and array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < 1 << 20:
            return np.array(array, np.int64)
        expected = "whole numbers from 0, one for each image"
    raise UserError(f"{raw.root / name}: found {array.dtype} {array.shape}; expected {expected}")


def _map(raw: Raw, name: str) -> np.memmap:
    try:
        array = np.load(raw.root / name, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
            raise ValueError("not in C order, in which the rows come one after another")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{raw.root / name}: cannot be read as an array ({reason(error)}); save it again") from error
    return array


def _add_channel(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis]


def _channels_first(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2)
