"""Reading the original files in data/raw/ into arrays, one function per kind of source.

Every reader gives the parts that the source itself comes in: "train" and "test", and of one's own also "val", where
the split is official, "all" where it is not.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stages.lib import folders, imagenet
from stages.lib.archives import unpack
from stages.lib.datasets import DATASETS, ImageNet, Own, Packaged, Torchvision
from stages.lib.pixels import decode_all
from stages.lib.raw import MIRROR, Raw, mirror
from stages.lib.stage import STATE, UserError, reason

UNPACKED = STATE / "normalize"
MOST_BYTES = 1 << 28  # that a packaged file unpacks to
MOST_FILES = 100  # in an archive of the table


@dataclass(frozen=True)
class Part:
    """Labelled images of one part of the source, in the order of the source."""

    images: np.ndarray  # (N, C, H, W) uint8
    targets: np.ndarray  # (N,) int64, class numbers, or (N, quantities) float64
    index: np.ndarray  # (N,) int64, rows of the source
    groups: np.ndarray | None = None  # (N,) int64, of which no two splits may share one

    def take(self, rows: np.ndarray) -> "Part":
        """Some of the images."""
        groups = None if self.groups is None else self.groups[rows]
        return Part(self.images[rows], self.targets[rows], self.index[rows], groups)


def read(raw: Raw, *, task: str, size: int, unreadable_allowed: int) -> tuple[dict[str, Part], tuple[str, ...]]:
    """The parts of a data set, and the names of its classes in the order of their numbers, or of its quantities.

    Args:
        raw: the original files.
        task: classification, or regression, for which there has to be a table of one's own.
        size: pixels a side, to which files of images are brought while they are decoded; other readers leave that out.
        unreadable_allowed: how many files of images may be skipped.

    Raises:
        UserError: a file is missing or damaged, or its content is not what the data set promises.
    """
    dataset = DATASETS[raw.dataset]
    if isinstance(dataset, ImageNet) and not (mirror() and raw.root.is_dir()):
        raise UserError(
            f"{MIRROR}: found {mirror() or 'nothing'}, expected the folder that download saw, with its archives"
        )
    if isinstance(dataset, Own):
        return _read_own(raw, dataset, task, size, unreadable_allowed)
    shutil.rmtree(UNPACKED, ignore_errors=True)
    UNPACKED.mkdir(parents=True)
    try:
        if not isinstance(dataset, ImageNet):  # whose archives torchvision checks: they take long to read
            raw.check()
        if isinstance(dataset, Packaged):
            parts, classes = {"all": _read_packaged(dataset, raw.root)}, dataset.classes
        elif isinstance(dataset, ImageNet):
            parts, classes = _read_imagenet(raw, size)
        else:
            parts, classes = _read_torchvision(dataset, raw.root)
        for part in parts.values():
            _check(part, classes)
    # What pandas and torchvision raise on bytes that are not what they should be; all of them mean the same.
    except (ValueError, TypeError, AssertionError, LookupError, ArithmeticError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno and raw.root not in Path(error.filename or "").parents:
            raise  # not of these files, but of the disk, or of where they are unpacked to
        raise UserError(
            f"{raw.root}: the files of {raw.dataset} are missing or damaged ({type(error).__name__}: {reason(error)}); "
            "`dvc repro --force download` fetches them again"
        ) from error
    finally:
        shutil.rmtree(UNPACKED, ignore_errors=True)
    return parts, classes


def _read_own(
    raw: Raw, dataset: Own, task: str, size: int, unreadable_allowed: int
) -> tuple[dict[str, Part], tuple[str, ...]]:
    if dataset.table:
        from stages.lib import tables  # its pandas takes half a second, and other readers do without it

        found = tables.labelled(raw, task)
    else:
        found = folders.labelled(list(raw.sha256))
    images, unreadable = decode_all(raw.content, found.names, size)
    if unreadable:
        told = ", ".join(f"{found.names[row]} ({why})" for row, why in list(unreadable.items())[:5])
        message = f"{len(unreadable):,} of {len(found.names):,} files cannot be read: {told}"
        if len(unreadable) > unreadable_allowed:
            raise UserError(f"{message}; put them right, or raise unreadable_allowed, now {unreadable_allowed}")
        if len(unreadable) == len(found.names):
            raise UserError(f"{message}; none is left")
        print(f"skipped: {message}")
    every = Part(images, found.targets, np.arange(len(images)), found.groups)
    parts = {}
    for part in sorted(set(found.parts)):
        rows = [row for row, of in enumerate(found.parts) if of == part and row not in unreadable]
        parts[part] = every.take(np.array(rows, np.int64))
    return parts, found.called


def _read_imagenet(raw: Raw, size: int) -> tuple[dict[str, Part], tuple[str, ...]]:
    parts = {}
    for part in ("train", "test"):
        names, targets, classes = imagenet.unpacked(raw, UNPACKED, part)
        images, unreadable = decode_all(partial(_content_below, UNPACKED), names, size)
        if unreadable:
            raise ValueError(f"{len(unreadable)} images of {part}: {next(iter(unreadable.values()))}")
        parts[part] = _whole(images, np.array(targets, np.int64))
    return parts, classes


def _content_below(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _read_packaged(dataset: Packaged, folder: Path) -> Part:
    import pandas as pd  # takes half a second, and other readers do without it

    unpack(folder / dataset.file_name, UNPACKED, most_bytes=MOST_BYTES)
    table = pd.read_csv(UNPACKED / Path(dataset.file_name).stem, header=None, skip_blank_lines=False).to_numpy()
    if (
        table.dtype != np.int64 or table.min() < 0 or table.max() > 255
    ):  # given a dtype, pandas would cut numbers to fit
        raise ValueError("not a table of whole numbers from 0 to 255")
    return _whole(table[:, :-1].astype(np.uint8).reshape(-1, *dataset.shape), table[:, -1])


def _read_torchvision(dataset: Torchvision, folder: Path) -> tuple[dict[str, Part], tuple[str, ...]]:
    import torchvision  # takes seconds, and the default data set does without it

    arguments = dict(dataset.arguments)
    _lay_out(dataset, folder)
    reader = getattr(torchvision.datasets, dataset.class_name)
    parts = {}
    for part in ("train", "test") if dataset.part else ("all",):
        chosen: dict[str, bool | str] = {"train": part == "train"} if dataset.part == "train" else {}
        if dataset.part == "split":
            chosen = {"split": part}
        data = reader(UNPACKED, **arguments, **chosen, download=False)
        targets = np.asarray(data.targets if hasattr(data, "targets") else data.labels).astype(np.int64)
        if targets.ndim == 2:
            targets = targets[:, 0]  # QMNIST: the class, then who wrote it and where it came from
        images = np.asarray(data.data)
        if images.ndim == 3:
            images = images[:, np.newaxis]
        elif images.shape[-1] == 3:  # CIFAR: channels last
            images = images.transpose(0, 3, 1, 2)
        parts[part] = _whole(images, targets)
    classes = dataset.classes or tuple(data.classes)
    if dataset.class_name == "EMNIST":  # its files hold every image with rows and columns exchanged
        first = int(classes[0] == "N/A")  # the letters count from 1
        classes = classes[first:]
        parts = {name: _whole(part.images.swapaxes(2, 3), part.targets - first) for name, part in parts.items()}
    return parts, classes


def _whole(images: np.ndarray, targets: np.ndarray) -> Part:
    return Part(images, targets, np.arange(len(targets)))


def _lay_out(dataset: Torchvision, folder: Path) -> None:
    """Put the files of data/raw/ where torchvision looks for them, below UNPACKED, unpacked as far as it wants that."""
    idx = UNPACKED / dataset.class_name / "raw"
    idx.mkdir(parents=True)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".tar.gz"):
            unpack(path, UNPACKED, most_bytes=dataset.most_bytes, most_files=MOST_FILES)
        elif path.suffix == ".zip":  # EMNIST: gzipped files of all its splits
            unpack(path, UNPACKED, most_bytes=dataset.most_bytes, most_files=MOST_FILES)
            for inner in sorted(UNPACKED.glob(f"*/emnist-{dict(dataset.arguments)['split']}-*.gz")):
                unpack(inner, idx, most_bytes=dataset.most_bytes)
        elif path.suffix == ".gz":
            unpack(path, idx, most_bytes=dataset.most_bytes)
        else:  # read as it is
            (UNPACKED / path.name).symlink_to(path.resolve())


def _check(part: Part, classes: tuple[str, ...]) -> None:
    if part.images.ndim != 4 or part.images.dtype != np.uint8:
        raise ValueError(f"images of shape {part.images.shape} and type {part.images.dtype}")
    if len(part.images) != len(part.targets) or not len(part.images):
        raise ValueError(f"{len(part.images)} images and {len(part.targets)} labels")
    if part.targets.min() < 0 or part.targets.max() >= len(classes):
        raise ValueError(f"a label outside of the {len(classes)} classes")
