"""Reading the original files in data/raw/, one function per kind of source.

Every reader gives the parts that the source itself comes in: "train" and "test", and of one's own also "val", where
the split is official, "all" where it is not. Labels are in memory; images may stay in a file until they are needed.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import STATE
from stages.lib.datasets import arrays, folders, idx, imagenet
from stages.lib.datasets.archives import unpack
from stages.lib.datasets.array_file import ArrayFile
from stages.lib.datasets.raw import MIRROR, Raw, mirror
from stages.lib.datasets.table import DATASETS, Idx, ImageNet, Own, Packaged, Torchvision
from stages.lib.preprocessing.decoding import decode_all

UNPACKED = STATE / "normalize"
MOST_BYTES = 1 << 28  # that a packaged file unpacks to
MOST_FILES = 100  # in an archive of the table


@dataclass(frozen=True)
class Part:
    """Labelled images of one part of the source, in the order of the source."""

    images: np.ndarray | ArrayFile  # (M, C, H, W) uint8, of which this part has some
    targets: np.ndarray  # (N,) int64, class numbers, or (N, quantities) float64
    index: np.ndarray  # (N,) int64, ascending: its rows of `images`, which are those of the source
    groups: np.ndarray | None = None  # (N,) int64, of which no two splits may share one
    files: Sequence[str] | None = None  # if the rows of `images` are files: their M paths, shared by all parts

    def take(self, rows: np.ndarray) -> "Part":
        """Some of the images."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, targets=self.targets[rows], index=self.index[rows], groups=groups)


@contextmanager
def opened(
    raw: Raw, *, task: str, size: int, unreadable_allowed: int
) -> Iterator[tuple[dict[str, Part], tuple[str, ...]]]:
    """The parts of a data set, and the names of its classes in the order of their numbers, or of its quantities.

    The images can be read until the block ends.

    Args:
        raw: the original files.
        task: classification, or regression, for which there has to be a table or an array of one's own.
        size: pixels a side, to which files of images are brought while they are decoded; other readers leave that out.
        unreadable_allowed: how many files of images may be skipped.

    Raises:
        UserError: a file is missing or damaged, or its content is not what the data set promises.
    """
    shutil.rmtree(UNPACKED, ignore_errors=True)
    UNPACKED.mkdir(parents=True)
    try:
        dataset = DATASETS[raw.dataset]
        if isinstance(dataset, Own):
            found = _read_own(raw, dataset, task, size, unreadable_allowed)
        else:
            found = _read_published(raw, dataset, size)
        yield found
    finally:
        shutil.rmtree(UNPACKED, ignore_errors=True)


def _read_published(
    raw: Raw, dataset: Packaged | Idx | Torchvision | ImageNet, size: int
) -> tuple[dict[str, Part], tuple[str, ...]]:
    if isinstance(dataset, ImageNet) and not (mirror() and raw.root.is_dir()):
        raise UserError(
            f"{MIRROR}: found {mirror() or 'nothing'}, expected the folder that download saw, with its archives"
        )
    try:
        if not isinstance(dataset, ImageNet):  # whose archives torchvision checks: they take long to read
            raw.check()
        if isinstance(dataset, Packaged):
            parts, classes = {"all": _read_packaged(dataset, raw.root)}, dataset.classes
        elif isinstance(dataset, Idx):
            parts, classes = _read_idx(dataset, raw.root), dataset.classes
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
    return parts, classes


def _read_own(
    raw: Raw, dataset: Own, task: str, size: int, unreadable_allowed: int
) -> tuple[dict[str, Part], tuple[str, ...]]:
    if dataset.labels == "arrays":
        try:
            raw.check()
        except (ValueError, OSError) as error:
            raise UserError(f"{raw.root}: {reason(error)}; run `dvc repro`, which looks at the source first") from error
        stored, called = arrays.labelled(raw, task)
        return {name: _whole(images, targets) for name, (images, targets) in stored.items()}, called
    if dataset.labels == "table":
        from stages.lib.datasets import tables  # its pandas takes half a second, and other readers do without it

        found = tables.labelled(raw, task)
    else:
        found = folders.labelled(list(raw.sha256))
    images, unreadable = decode_all(raw.content, found.names, size, UNPACKED / "own")
    if unreadable:
        told = ", ".join(f"{found.names[row]} ({why})" for row, why in list(unreadable.items())[:5])
        message = f"{len(unreadable):,} of {len(found.names):,} files cannot be read: {told}"
        if len(unreadable) > unreadable_allowed:
            raise UserError(f"{message}; put them right, or raise unreadable_allowed, now {unreadable_allowed}")
        if len(unreadable) == len(found.names):
            raise UserError(f"{message}; none is left")
        print(f"skipped: {message}")
    every = Part(images, found.targets, np.arange(len(images)), found.groups, found.names)
    parts = {}
    for part in sorted(set(found.parts)):
        rows = [row for row, of in enumerate(found.parts) if of == part and row not in unreadable]
        parts[part] = every.take(np.array(rows, np.int64))
    return parts, found.called


def _read_imagenet(raw: Raw, size: int) -> tuple[dict[str, Part], tuple[str, ...]]:
    parts = {}
    for part in ("train", "test"):
        names, targets, classes = imagenet.unpacked(raw, UNPACKED, part)
        images, unreadable = decode_all(partial(_content_below, UNPACKED), names, size, UNPACKED / f"{part}.pixels")
        if unreadable:
            raise ValueError(f"{len(unreadable)} images of {part}: {next(iter(unreadable.values()))}")
        parts[part] = _whole(images, np.array(targets, np.int64), names)
    return parts, classes


def _content_below(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()


def _read_idx(dataset: Idx, folder: Path) -> dict[str, Part]:
    if dataset.members:
        unpack(folder / dataset.files[0].name, UNPACKED, most_bytes=dataset.most_bytes, most_files=MOST_FILES)
        train, test = (sorted(UNPACKED.glob(f"*/{dataset.members}{part}-*.gz")) for part in ("train", "test"))
        packed = [*train, *test]
    else:
        packed = [folder / file.name for file in dataset.files]
    for path in packed:
        unpack(path, UNPACKED, most_bytes=dataset.most_bytes)
    images_and_labels = iter([idx.read(UNPACKED / path.stem) for path in packed])
    parts = {}
    for part, images, labels in zip(("train", "test"), images_and_labels, images_and_labels, strict=True):
        classes = labels[:].astype(np.int64)
        if classes.ndim == 2:
            classes = classes[:, 0]  # QMNIST: the class, then who wrote it and where it came from
        arranged = replace(images, arrange=_of_columns if dataset.transposed else _of_rows)
        parts[part] = _whole(arranged, classes - dataset.first)
    return parts


def _of_rows(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis]


def _of_columns(images: np.ndarray) -> np.ndarray:
    return images[:, np.newaxis].swapaxes(2, 3)


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
    import torchvision  # takes seconds, and most data sets do without it

    for path in sorted(folder.iterdir()):
        if path.name.endswith(".tar.gz"):
            unpack(path, UNPACKED, most_bytes=dataset.most_bytes, most_files=MOST_FILES)
        else:  # read as it is
            (UNPACKED / path.name).symlink_to(path.resolve())
    reader = getattr(torchvision.datasets, dataset.class_name)
    parts = {}
    for part in ("train", "test") if dataset.part else ("all",):
        chosen: dict[str, bool | str] = {"train": part == "train"} if dataset.part == "train" else {}
        if dataset.part == "split":
            chosen = {"split": part}
        data = reader(UNPACKED, **chosen, download=False)
        targets = np.asarray(data.targets if hasattr(data, "targets") else data.labels).astype(np.int64)
        images = np.asarray(data.data)
        if images.ndim == 3:
            images = images[:, np.newaxis]
        elif images.shape[-1] == 3:  # CIFAR: channels last
            images = images.transpose(0, 3, 1, 2)
        parts[part] = _whole(images, targets)
    return parts, dataset.classes or tuple(data.classes)


def _whole(images: np.ndarray | ArrayFile, targets: np.ndarray, files: Sequence[str] | None = None) -> Part:
    if len(images) != len(targets) or not len(images):
        raise ValueError(f"{len(images)} images and {len(targets)} labels")
    return Part(images, targets, np.arange(len(targets)), files=files)


def _check(part: Part, classes: tuple[str, ...]) -> None:
    first = part.images[:1]
    if first.ndim != 4 or first.dtype != np.uint8:
        raise ValueError(f"images of shape {first.shape} and type {first.dtype}")
    if part.targets.min() < 0 or part.targets.max() >= len(classes):
        raise ValueError(f"a label outside of the {len(classes)} classes")
