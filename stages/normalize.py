"""Stage 2, normalize: data/raw/dataset/ -> data/normalized/

    python -m stages.normalize

In:  the original files, in whatever format.
Out: data/normalized/{train,val,test}/: images uint8 (N, C, H, W) of one geometry, targets, rows of the source, and for
     test the paths of the image files if there are any; with each split the description of the data: classes, and mean
     and standard deviation of the training pixels, of a regression also those of its targets.
Each image is read once (with `drop_duplicates` twice), a block of images at a time, on all processors, or by the
workers of the cluster that CLUSTER names, with the same bytes. A test split of the source itself stays the test split;
otherwise `test_fraction` and `val_fraction` of each class are drawn.
"""

from stages.lib.core.process import run

import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field
from tqdm import tqdm

from stages.lib.cluster.connection import cluster_address
from stages.lib.cluster.tasks import on_cluster
from stages.lib.core import SPLITS
from stages.lib.core.errors import UserError, some
from stages.lib.core.files import STATE, replacing_folder
from stages.lib.core.parameters import StageParameters, load
from stages.lib.datasets.kind import CLASSIFICATION, TASKS, Contents, Part, Reading
from stages.lib.datasets.raw import Raw, read_manifest
from stages.lib.datasets.table import DATASETS
from stages.lib.preprocessing import duplicates, pixel_statistics, splitting
from stages.lib.preprocessing.decoding import decode_all
from stages.lib.preprocessing.fitting import Fitted, Unfitted, fit_shard
from stages.lib.preprocessing.processes import Map, all_processors
from stages.lib.splits.description import DataDescription, Quantity
from stages.lib.splits.shards import Shard, rows_of_a_shard, shard_path, write_description

RAW = Path("data/raw/dataset")
NORMALIZED = Path("data/normalized")
UNPACKED = STATE / "normalize"  # unpacked archives and decoded pixels
SMALL = 1 << 27  # bytes of pixels that one process fits sooner than several begin to
IMBALANCE = 10  # report classes if the largest has so many times the images of the smallest


class Parameters(StageParameters):
    """What normalize reads of params.yaml."""

    task: str = Field(
        default="classification", description="what the targets are", json_schema_extra={"enum": list(TASKS)}
    )
    image_size: int = Field(
        default=28, ge=2, le=4096, description="pixels a side; other images are resized and cut to a square"
    )
    max_pixel_value: int = Field(
        default=65535, ge=1, le=65535, description="white in images of 16 bits, 4095 if they use 12 of them"
    )
    val_fraction: float = Field(
        default=0.1, gt=0, le=0.5, description="share of the rows that become the validation split"
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=0.5, description="share that becomes the test split, if none is official"
    )
    unreadable_allowed: int = Field(
        default=0, ge=0, le=10**9, description="images of your own that may be skipped as unreadable"
    )
    drop_duplicates: bool = Field(
        default=False, description="whether training images that are also in val or test are dropped"
    )
    split_seed: int = Field(default=0, ge=0, lt=2**32, description="seed of the choice of val and test rows")


def main() -> None:
    parameters = load(Parameters)
    raw = read_manifest(RAW)
    with scratch_folder() as scratch, processes(raw) as run:
        parts, labels = read_source(raw, parameters, scratch, run)
        classes = labels if parameters.task == CLASSIFICATION else ()

        if classes:
            show_classes(parts, classes)

        # --- Divide the rows into splits ---
        splits = divide(parts, classes, parameters)
        refuse_empty(splits)
        shape = (splits["train"].images[:1].shape[1], parameters.image_size, parameters.image_size)
        if parameters.drop_duplicates:
            splits["train"] = without_duplicates(splits, shape, run)
            refuse_empty(splits)
        if classes:
            check_classes(splits["train"].targets, classes)

        with replacing_folder(NORMALIZED) as folder:
            # --- Bring all images to one geometry, and write them, shard by shard ---
            fitted = fit_splits(splits, shape, run, folder)
            duplicates_left = report_duplicates(fitted)

            # --- Statistics of train alone ---
            mean, std = pixel_statistics.mean_and_std(fitted["train"].counts)
            if not all(std):
                raise UserError(
                    f"{RAW}: the training pixels of a channel are all the same; there is nothing to learn from"
                )
            description = DataDescription(
                dataset=raw.dataset,
                classes=list(classes),
                shape=shape,
                mean=mean,
                std=std,
                quantities=[] if classes else describe_quantities(splits["train"].targets, labels),
                origin=describe_origin(parts, classes, parameters),
                max_pixel_value=parameters.max_pixel_value,
                duplicates=duplicates_left,
            )
            for name, split in fitted.items():
                rows_written = write_description(folder / name, split.shards, description, "normalize")
                print(f"{name:>5}: {rows_written:,} images of {' x '.join(map(str, shape))}")


@contextmanager
def processes(raw: Raw) -> Iterator[Map]:
    """Yield what runs tasks: the workers of a cluster if CLUSTER names one, otherwise all processors.

    Raises:
        UserError: the cluster cannot be used.
    """
    address = cluster_address()
    with on_cluster(address, None if raw.address else raw.root) if address else all_processors() as run:
        yield run


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty folder for unpacked archives and decoded pixels, which is removed when the block ends.

    Its name is another one in each run: what a worker of a killed run still writes goes nowhere.
    """
    shutil.rmtree(UNPACKED, ignore_errors=True)
    folder = UNPACKED / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(UNPACKED, ignore_errors=True)


def read_source(raw: Raw, parameters: Parameters, scratch: Path, run: Map) -> Contents:
    """Read a data set; its images may be in `scratch`.

    Raises:
        UserError: a file is missing or damaged, or its content is not as expected.
    """
    reading = Reading(
        task=parameters.task,
        unreadable_allowed=parameters.unreadable_allowed,
        scratch=scratch,
        decode=lambda reader_of, names, folder: decode_all(
            reader_of, names, parameters.image_size, folder, run, white=parameters.max_pixel_value
        ),
    )
    return DATASETS[raw.dataset].read(raw, reading)


def divide(parts: Mapping[str, Part], classes: Sequence[str], parameters: Parameters) -> dict[str, Part]:
    """Return train, val and test: the source's val and test unchanged, and the missing ones drawn from the rest.

    Each class is divided by itself; the images of a regression all together; groups stay whole.
    """
    official = {name: part for name, part in parts.items() if name in ("val", "test")}
    rest = parts["all"] if "all" in parts else parts["train"]
    fractions = drawn_fractions(parts, parameters)
    numbers = rest.targets if classes else np.zeros(len(rest.targets), np.int64)
    if rest.groups is not None and fractions:
        rows = splitting.grouped(numbers, rest.groups, fractions, seed=parameters.split_seed)
    else:
        rows = splitting.stratified(numbers, fractions, seed=parameters.split_seed, names=classes or ["image"])
    return {name: rest.take(rows_of_split) for name, rows_of_split in rows.items()} | official


def drawn_fractions(parts: Mapping[str, Part], parameters: Parameters) -> dict[str, float]:
    """Return the splits that the source lacks, and the fraction of its training part that each takes."""
    fractions = {"val": parameters.val_fraction, "test": parameters.test_fraction}
    return {name: fraction for name, fraction in fractions.items() if name not in parts}


def describe_origin(parts: Mapping[str, Part], classes: Sequence[str], parameters: Parameters) -> dict[str, str]:
    """Return where val and test come from, in words for the model card."""
    origin = dict.fromkeys(("val", "test"), "the source's own")
    rest = "train" if "train" in parts else "all"
    how = "each class by itself" if classes else "all alike"
    if parts[rest].groups is not None:
        how = "groups as a whole"
    for name, fraction in drawn_fractions(parts, parameters).items():
        of_what = "the source's training images" if rest == "train" else "all images"
        origin[name] = f"{fraction:g} of {of_what}, drawn by split_seed {parameters.split_seed}, {how}"
    return origin


class FittedSplit(NamedTuple):
    """What is known of a split besides its images."""

    shards: list[Shard]  # empty if they were not written
    digests: np.ndarray  # (N,) uint64
    counts: np.ndarray  # (C, 256) int64, how often each value of a pixel occurs


def fit_splits(
    splits: Mapping[str, Part], shape: tuple[int, int, int], run: Map, folder: Path | None = None
) -> dict[str, FittedSplit]:
    """Bring all images to one geometry, in shards, and write those below `folder`, if there is one."""
    # Under another name in each run: what a worker of a killed run still writes goes nowhere.
    staged = folder / f".{uuid.uuid4().hex}.tmp" if folder else None
    tasks = {name: unfitted_shards(name, splits[name], shape, staged) for name in SPLITS}
    fitted = {}
    total = sum(len(part.targets) for part in splits.values())
    is_small = total * math.prod(shape) < SMALL or any(isinstance(part.images, np.ndarray) for part in splits.values())
    if not is_small and splits["train"].images[:1].shape[1:] != shape:
        import torch  # noqa: F401  # which resizes; once for all processes that are forked from this one
    with tqdm(total=total, desc="normalizing", unit=" images", disable=None) as bar:
        for name, tasks_of_split in tasks.items():
            shards: list[Fitted] = []
            for shard in (map if is_small else run)(fit_shard, tasks_of_split):
                if folder and staged:
                    (folder / name).mkdir(exist_ok=True)
                    os.replace(shard_path(staged / name, len(shards)), shard_path(folder / name, len(shards)))
                shards.append(shard)
                bar.update(len(shard.digests))
            fitted[name] = FittedSplit(
                [each.shard for each in shards if each.shard],
                np.concatenate([each.digests for each in shards]),
                np.sum([each.counts for each in shards], axis=0),
            )
    if staged:
        shutil.rmtree(staged, ignore_errors=True)
    return fitted


def unfitted_shards(name: str, part: Part, shape: tuple[int, int, int], folder: Path | None) -> Iterator[Unfitted]:
    """Yield the shards of a split."""
    if folder:
        (folder / name).mkdir(parents=True)
    rows = rows_of_a_shard(shape, np.dtype(np.uint8))
    for number, first in enumerate(range(0, len(part.targets), rows)):
        index = part.index[first : first + rows]
        # Only evaluate names files. Without them in train and val, renamed files do not start a new training.
        files = [part.files[row] for row in index] if part.files and name == "test" else None
        path = shard_path(folder / name, number) if folder else None
        yield Unfitted(part.images, index, part.targets[first : first + rows], files, shape[1], path)


def without_duplicates(splits: Mapping[str, Part], shape: tuple[int, int, int], run: Map) -> Part:
    """Return the training split without the images that are also in val or test."""
    fitted = fit_splits(splits, shape, run)
    report_duplicates(fitted, "; dropped")
    others = np.concatenate([fitted["val"].digests, fitted["test"].digests])
    return splits["train"].take(np.flatnonzero(~duplicates.are_in(fitted["train"].digests, others)))


def report_duplicates(fitted: Mapping[str, FittedSplit], action: str = "") -> dict[str, int]:
    """Print and return how many training images are also in val, and how many in test."""
    repeated = {
        name: int(duplicates.are_in(fitted["train"].digests, fitted[name].digests).sum()) for name in ("val", "test")
    }
    if any(repeated.values()):
        counts = ", in ".join(f"{name}: {count:,}" for name, count in repeated.items())
        print(f"duplicates: training images also in {counts}{action}")
    return repeated


def describe_quantities(targets: np.ndarray, names: Sequence[str]) -> list[Quantity]:
    """Return mean and standard deviation of each quantity of (N, quantities) float64.

    Raises:
        UserError: a quantity has the same value everywhere, or values beyond the range of floats.
    """
    described = []
    for name, values in zip(names, targets.T, strict=True):
        if values.min() == values.max():
            raise UserError(f"{RAW}: {name} is {values[0]:g} in every training row; there is nothing to learn from")
        try:
            mean, std = pixel_statistics.mean_and_std_of_reals(values)
        except OverflowError:
            mean, std = math.inf, math.inf
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise UserError(f"{RAW}: {name} is too large or too small to be standardized; give it in another unit")
        described.append(Quantity(name=name, mean=mean, std=std))
    return described


def refuse_empty(splits: Mapping[str, Part]) -> None:
    """Refuse a split without images.

    Raises:
        UserError: there is one.
    """
    if empty := [name for name, part in splits.items() if not len(part.targets)]:
        raise UserError(f"{RAW}: no image is left for {' and '.join(empty)}; add some to the source")


def show_classes(parts: Mapping[str, Part], classes: Sequence[str]) -> None:
    """Print the classes with the number of their images.

    Raises:
        UserError: there is only one, or a class has no image.
    """
    if len(classes) < 2:
        raise UserError(f"{RAW}: all images are of one class, {classes[0]}; expected two classes or more")
    counts = np.bincount(np.concatenate([part.targets for part in parts.values()]), minlength=len(classes))
    if missing := [name for name, count in zip(classes, counts, strict=True) if not count]:
        raise UserError(f"{RAW}: no image of class {some(missing)}, of {len(classes):,} classes; expected some of each")
    shown = some([f"{name} ({count:,})" for name, count in zip(classes, counts.tolist(), strict=True)])
    print(f"{len(classes):,} classes: {shown}")


def check_classes(targets: np.ndarray, classes: Sequence[str]) -> None:
    """Refuse a class without training images, and report imbalanced classes.

    Raises:
        UserError: a class has no image to train on.
    """
    counts = np.bincount(targets, minlength=len(classes))
    if not counts.all():
        missing = some([name for name, count in zip(classes, counts, strict=True) if not count])
        raise UserError(
            f"{RAW}: no training image of class {missing}; add some, or leave the class out of val and test"
        )
    if counts.max() >= IMBALANCE * counts.min():
        most, least = (f"{classes[row]} {counts[row]:,}" for row in (int(counts.argmax()), int(counts.argmin())))
        print(f"imbalanced classes: {most} training images, {least}")


if __name__ == "__main__":
    run(main)
