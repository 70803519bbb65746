"""The folder data/normalized/: what normalize writes and cache reads.

{train,val,test}_images.npy    (N, C, H, W) uint8
{train,val,test}_targets.npy   (N,) int64, class numbers
{train,val,test}_index.npy     (N,) int64, the row of the source that each image was
statistics.json                the `DataDescription`
"""

from pathlib import Path

import numpy as np

from stages.lib.description import DataDescription
from stages.lib.files import write_text
from stages.lib.stage import UserError, reason

SPLITS = ("train", "val", "test")
ARRAYS = ("images", "targets", "index")


def write_split(folder: Path, split: str, images: np.ndarray, targets: np.ndarray, index: np.ndarray) -> None:
    """Write the three arrays of one split."""
    for name, array in zip(ARRAYS, (images, targets, index), strict=True):
        np.save(folder / f"{split}_{name}.npy", array, allow_pickle=False)


def write_description(folder: Path, description: DataDescription) -> None:
    """Write statistics.json."""
    write_text(folder / "statistics.json", description.model_dump_json(indent=2) + "\n")


def read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, targets and index of one split, mapped into memory and not copied.

    Raises:
        UserError: a file is missing, damaged or not of the type and number of rows that belong there.
    """
    arrays: list[np.ndarray] = []
    for name, dtype, dimensions in zip(ARRAYS, (np.uint8, np.int64, np.int64), (4, 1, 1), strict=True):
        path = folder / f"{split}_{name}.npy"
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except OSError as error:
            raise _damaged(path, reason(error)) from error
        except (ValueError, EOFError) as error:
            raise _damaged(path, "not a whole NumPy file") from error
        if array.dtype != dtype or array.ndim != dimensions or (arrays and len(array) != len(arrays[0])):
            raise _damaged(path, f"found {array.dtype} of shape {array.shape}")
        arrays.append(array)
    images, targets, index = arrays
    return images, targets, index


def read_description(folder: Path) -> DataDescription:
    """Read statistics.json.

    Raises:
        UserError: it is missing or damaged.
    """
    path = folder / "statistics.json"
    try:
        return DataDescription.model_validate_json(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _damaged(path, reason(error)) from error


def _damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path}: missing or damaged ({why}); `dvc repro --force normalize` makes it again")
