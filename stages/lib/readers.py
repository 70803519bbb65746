"""Reading the original files in data/raw/ into arrays, one function per kind of source.

Every reader gives the parts that the source itself comes in: "train" and "test" where the split is official, "all"
where it is not.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stages.lib.archives import unpack
from stages.lib.datasets import DATASETS, Packaged, Torchvision
from stages.lib.stage import STATE, UserError, reason

UNPACKED = STATE / "normalize"
MOST_BYTES = 1 << 28  # of one unpacked file; the largest of the table has 47 million


@dataclass(frozen=True)
class Part:
    """Labelled images of one part of the source, in the order of the source."""

    images: np.ndarray  # (N, C, H, W) uint8
    targets: np.ndarray  # (N,) int64, class numbers


def read(name: str, folder: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The parts of a built-in data set, and its class names in the order of the class numbers.

    They are unpacked, with the checksums of their format, before anything reads them.

    Raises:
        UserError: a file is missing or damaged, or its content is not what the data set promises.
    """
    dataset = DATASETS[name]
    shutil.rmtree(UNPACKED, ignore_errors=True)
    UNPACKED.mkdir(parents=True)
    try:
        if isinstance(dataset, Packaged):
            parts, classes = {"all": _read_packaged(dataset, folder)}, dataset.classes
        else:
            parts, classes = _read_torchvision(dataset, folder)
        for part in parts.values():
            _check(part, classes)
    # What pandas and torchvision raise on bytes that are not what they should be; all of them mean the same.
    except (ValueError, TypeError, AssertionError, LookupError, ArithmeticError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno and folder not in Path(error.filename or "").parents:
            raise  # not of these files, but of the disk, or of where they are unpacked to
        raise UserError(
            f"{folder}: the files of {name} are missing or damaged ({type(error).__name__}: {reason(error)}); "
            "`dvc repro --force download` fetches them again"
        ) from error
    finally:
        shutil.rmtree(UNPACKED, ignore_errors=True)
    return parts, classes


def _read_packaged(dataset: Packaged, folder: Path) -> Part:
    unpack(folder / dataset.file_name, UNPACKED, most_bytes=MOST_BYTES)
    table = pd.read_csv(UNPACKED / Path(dataset.file_name).stem, header=None, skip_blank_lines=False).to_numpy()
    if (
        table.dtype != np.int64 or table.min() < 0 or table.max() > 255
    ):  # given a dtype, pandas would cut numbers to fit
        raise ValueError("not a table of whole numbers from 0 to 255")
    return Part(table[:, :-1].astype(np.uint8).reshape(-1, *dataset.shape), table[:, -1])


def _read_torchvision(dataset: Torchvision, folder: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    import torchvision  # takes seconds, and the default data set does without it

    reader = getattr(torchvision.datasets, dataset.class_name)
    unpacked = UNPACKED / dataset.class_name / "raw"  # where torchvision looks, below a folder that it is given
    unpacked.mkdir(parents=True)
    for archive in sorted(folder.glob("*.gz")):
        unpack(archive, unpacked, most_bytes=MOST_BYTES)
    parts = {}
    for part in ("train", "test"):
        data = reader(UNPACKED, train=part == "train", download=False)
        targets = data.targets.numpy()
        if targets.ndim == 2:
            targets = targets[:, 0]  # QMNIST: the class, then who wrote it and where it came from
        parts[part] = Part(data.data.numpy()[:, np.newaxis], targets.astype(np.int64))
    return parts, dataset.classes or tuple(reader.classes)


def _check(part: Part, classes: tuple[str, ...]) -> None:
    if part.images.ndim != 4 or part.images.dtype != np.uint8:
        raise ValueError(f"images of shape {part.images.shape} and type {part.images.dtype}")
    if len(part.images) != len(part.targets) or not len(part.images):
        raise ValueError(f"{len(part.images)} images and {len(part.targets)} labels")
    if part.targets.min() < 0 or part.targets.max() >= len(classes):
        raise ValueError(f"a label outside of the {len(classes)} classes")
