"""Reading the original files in data/raw/ into arrays, one function per kind of source.

Every reader gives the parts that the source itself comes in: "train" and "test" where the split is official, "all"
where it is not.
"""

import gzip
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from stages.lib.datasets import DATASETS, Packaged, Torchvision
from stages.lib.stage import UserError, reason


@dataclass(frozen=True)
class Part:
    """Labelled images of one part of the source, in the order of the source."""

    images: np.ndarray  # (N, C, H, W) uint8
    targets: np.ndarray  # (N,) int64, class numbers


def read(name: str, folder: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The parts of a built-in data set, and its class names in the order of the class numbers.

    Raises:
        UserError: a file is missing or damaged, or its content is not what the data set promises.
    """
    dataset = DATASETS[name]
    try:
        if isinstance(dataset, Packaged):
            parts, classes = {"all": _read_packaged(dataset, folder)}, dataset.classes
        else:
            parts, classes = _read_torchvision(dataset, folder)
        for part in parts.values():
            _check(part, classes)
    # What gzip, pandas and torchvision raise on bytes that are not what they should be; all of them mean the same.
    except (ValueError, TypeError, AssertionError, KeyError, RuntimeError, EOFError, zlib.error, OSError) as error:
        raise UserError(
            f"{folder}: the files of {name} are missing or damaged ({type(error).__name__}: {reason(error)}); "
            "`dvc repro --force download` fetches them again"
        ) from error
    return parts, classes


def _read_packaged(dataset: Packaged, folder: Path) -> Part:
    table = pd.read_csv(folder / dataset.file_name, header=None, dtype=np.uint8).to_numpy()
    return Part(table[:, :-1].reshape(-1, *dataset.shape), table[:, -1].astype(np.int64))


def _read_torchvision(dataset: Torchvision, folder: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    import torchvision  # takes seconds, and the default data set does without it

    reader = getattr(torchvision.datasets, dataset.class_name)
    parts = {}
    with tempfile.TemporaryDirectory() as root:  # torchvision reads unpacked files, under a folder of its own
        unpacked = Path(root, dataset.class_name, "raw")
        unpacked.mkdir(parents=True)
        for archive in sorted(folder.glob("*.gz")):
            with gzip.open(archive) as source, open(unpacked / archive.stem, "wb") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)
        for part in ("train", "test"):
            data = reader(root, train=part == "train", download=False)
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
