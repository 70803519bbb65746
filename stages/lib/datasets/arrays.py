"""Images and labels in NumPy's files: for those who have millions of them, and no wish for as many files.

images.npy    (N, H, W), (N, H, W, 3) or (N, 3, H, W) uint8
targets.npy   (N,) whole numbers from 0, classes; or, of a regression, (N,) or (N, quantities) real numbers

or, for each part that is divided already, train_images.npy, train_targets.npy, val_..., test_...
"""

import numpy as np

from stages.lib.core.errors import UserError, reason
from stages.lib.datasets.array_file import ArrayFile, as_they_are
from stages.lib.datasets.labels import REGRESSION
from stages.lib.datasets.raw import Raw

PARTS = {"": "all", "train_": "train", "val_": "val", "test_": "test"}


def labelled(raw: Raw, task: str) -> tuple[dict[str, tuple[ArrayFile, np.ndarray]], tuple[str, ...]]:
    """Part -> images (N, C, H, W), which are not read yet, and targets; and the names of classes or quantities.

    Raises:
        UserError: files are missing, or not as described above.
    """
    parts = {}
    for prefix, part in PARTS.items():
        if f"{prefix}images.npy" in raw.sha256:
            parts[part] = images(raw, f"{prefix}images.npy"), targets(raw, f"{prefix}targets.npy", task)
            if len(parts[part][0]) != len(parts[part][1]):
                told = f"{len(parts[part][0]):,} images and {len(parts[part][1]):,} targets"
                raise UserError(f"{raw.root}: {prefix}images.npy and {prefix}targets.npy have {told}")
    if not parts.keys() & {"all", "train"} or len({"all", "train"} & parts.keys()) == 2:
        raise UserError(
            f"{raw.root}: found {', '.join(sorted(raw.sha256)[:5])}; expected images.npy and targets.npy, or "
            "train_images.npy and train_targets.npy, and the same of val_ and test_ if they are divided already"
        )
    shapes = {part[0][:0].shape[1:] for part in parts.values()}
    if len(shapes) > 1:
        raise UserError(f"{raw.root}: found images of {sorted(shapes)}; expected one shape (C, H, W) for all parts")
    found = [own for _, own in parts.values()]
    if task == REGRESSION:
        numbers = {own.shape[1] for own in found}
        if len(numbers) > 1:
            raise UserError(f"{raw.root}: the targets of the parts have {sorted(numbers)} quantities; expected as many")
        called = ("target",) if numbers == {1} else tuple(map(str, range(numbers.pop())))
        return parts, called
    return parts, tuple(map(str, range(max(int(own.max()) for own in found) + 1)))


def images(raw: Raw, name: str) -> ArrayFile:
    """The images of one file.

    Raises:
        UserError: it is no array of images.
    """
    array = _mapped(raw, name)
    sides = array.shape[1:]
    arrange = None
    if len(sides) == 2:
        arrange = _grey
    elif len(sides) == 3 and (sides[0] in (1, 3) or sides[2] in (1, 3)):
        arrange = as_they_are if sides[0] in (1, 3) else _channels_last
    if array.dtype != np.uint8 or arrange is None or 0 in array.shape:
        raise UserError(
            f"{raw.root / name}: found {array.dtype} {array.shape}; "
            "expected uint8 (N, H, W), (N, H, W, 3) or (N, 3, H, W)"
        )
    return ArrayFile(raw.root / name, array.shape, array.dtype, array.offset, arrange)


def targets(raw: Raw, name: str, task: str) -> np.ndarray:
    """Class numbers (N,) int64, or quantities (N, quantities) float64.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if name not in raw.sha256:
        raise UserError(f"{raw.root / name}: not found; expected the targets of the images beside it")
    array = _mapped(raw, name)
    if task == REGRESSION:
        if array.ndim in (1, 2) and array.dtype.kind in "iuf" and np.isfinite(array).all() and array.size:
            return np.array(array, np.float64).reshape(len(array), -1)
        wanted = "finite numbers, (N,) or (N, quantities)"
    else:
        if array.ndim == 1 and array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() < 1 << 20:
            return np.array(array, np.int64)
        wanted = "whole numbers from 0, one for each image"
    raise UserError(f"{raw.root / name}: found {array.dtype} {array.shape}; expected {wanted}")


def _mapped(raw: Raw, name: str) -> np.memmap:
    try:
        array = np.load(raw.root / name, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.memmap) or not array.flags.c_contiguous:
            raise ValueError("an array whose rows do not come one after another")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{raw.root / name}: no array that can be read ({reason(error)}); save it anew") from error
    return array


def _grey(rows: np.ndarray) -> np.ndarray:
    return rows[:, np.newaxis]


def _channels_last(rows: np.ndarray) -> np.ndarray:
    return rows.transpose(0, 3, 1, 2)
