"""Stage 2, normalize: data/raw/dataset/ -> data/normalized/

    python -m stages.normalize

In:  the original files, in whatever format.
Out: data/normalized/{train,val,test}/: images uint8 (N, C, H, W) of one geometry, targets, rows of the source, and for
     test the paths of the image files if there are any; with each split the description of the data: classes, and mean
     and standard deviation of the training pixels, of a regression also those of its targets.
Each image is read once (with `drop_duplicates` twice), a block of images at a time. A test split of the source itself
stays the test split; otherwise `test_fraction` and `val_fraction` of each class are drawn.
"""

from stages.lib.core.process import run

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from pydantic import Field

from stages.lib.core import SPLITS
from stages.lib.core.errors import UserError, some
from stages.lib.core.files import STATE, replacing_folder
from stages.lib.core.parameters import StageParameters, load
from stages.lib.datasets.kind import CLASSIFICATION, TASKS, Contents, Part, Reading
from stages.lib.datasets.raw import Raw, read_manifest
from stages.lib.datasets.table import DATASETS
from stages.lib.preprocessing import duplicates, geometry, pixel_statistics, splitting
from stages.lib.preprocessing.decoding import decode_all
from stages.lib.splits.description import DataDescription, Quantity
from stages.lib.splits.shards import Writer

RAW = Path("data/raw/dataset")
NORMALIZED = Path("data/normalized")
UNPACKED = STATE / "normalize"  # unpacked archives and decoded pixels
BLOCK = 1 << 23  # bytes of original pixels at a time
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
    with opened(raw, parameters) as (parts, labels):
        classes = labels if parameters.task == CLASSIFICATION else ()

        if classes:
            show_classes(parts, classes)

        # --- Divide the rows into splits ---
        splits = divide(parts, classes, parameters)
        refuse_empty(splits)
        if parameters.drop_duplicates:
            splits["train"] = without_duplicates(splits, parameters.image_size)
            refuse_empty(splits)
        if classes:
            check_classes(splits["train"].targets, classes)

        with replacing_folder(NORMALIZED) as folder:
            # --- Bring all images to one geometry, block by block; count the pixel values of train ---
            shape = (splits["train"].images[:1].shape[1], parameters.image_size, parameters.image_size)
            writers = {name: Writer(folder / name, shape, np.dtype(np.uint8)) for name in SPLITS}
            digests = {name: np.empty(len(part.targets), np.uint64) for name, part in splits.items()}
            counts = np.zeros((shape[0], 256), np.int64)
            for name, images, rows in fitted_blocks(splits, parameters.image_size):
                part = splits[name]
                # Only evaluate names files. Without them in train and val, renamed files do not start a new training.
                files = [part.files[row] for row in part.index[rows]] if part.files and name == "test" else None
                writers[name].append(images, part.targets[rows], part.index[rows], files)
                digests[name][rows] = duplicates.digests(images)
                if name == "train":
                    counts += pixel_statistics.count_values(images)
            duplicates_left = report_duplicates(digests)

            # --- Statistics of train alone ---
            mean, std = pixel_statistics.mean_and_std(counts)
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
            for name, writer in writers.items():
                rows_written = writer.finish(description, "normalize")
                print(f"{name:>5}: {rows_written:,} images of {' x '.join(map(str, shape))}")


@contextmanager
def opened(raw: Raw, parameters: Parameters) -> Iterator[Contents]:
    """Read a data set; its images can be accessed until the block ends.

    Raises:
        UserError: a file is missing or damaged, or its content is not as expected.
    """
    shutil.rmtree(UNPACKED, ignore_errors=True)
    UNPACKED.mkdir(parents=True)
    try:
        reading = Reading(
            task=parameters.task,
            unreadable_allowed=parameters.unreadable_allowed,
            scratch=UNPACKED,
            decode=lambda content_of, names, path: decode_all(
                content_of, names, parameters.image_size, path, white=parameters.max_pixel_value
            ),
        )
        yield DATASETS[raw.dataset].read(raw, reading)
    finally:
        shutil.rmtree(UNPACKED, ignore_errors=True)


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


def fitted_blocks(splits: Mapping[str, Part], size: int) -> Iterator[tuple[str, np.ndarray, slice]]:
    """Read the images of all splits once, in the order of the source.

    Yields:
        The name of a split, some of its images (n, C, size, size) uint8, and which of its rows they are.
    """
    sources = {id(part.images): part.images for part in splits.values()}
    for source in sources.values():
        index_of = {name: part.index for name, part in splits.items() if part.images is source}
        block = max(1, BLOCK // source[:1].nbytes)
        for start in range(0, len(source), block):
            rows_of = {
                name: slice(*np.searchsorted(index, [start, start + block]).tolist())
                for name, index in index_of.items()
            }
            rows_of = {name: rows for name, rows in rows_of.items() if rows.start < rows.stop}
            if not rows_of:
                continue
            images = source[start : start + block]
            for name, rows in rows_of.items():
                yield name, geometry.fit(images[index_of[name][rows] - start], size), rows


def without_duplicates(splits: Mapping[str, Part], size: int) -> Part:
    """Return the training split without the images that are also in val or test."""
    digests = {name: np.empty(len(part.targets), np.uint64) for name, part in splits.items()}
    for name, images, rows in fitted_blocks(splits, size):
        digests[name][rows] = duplicates.digests(images)
    report_duplicates(digests, "; dropped")
    repeated = duplicates.are_in(digests["train"], np.concatenate([digests["val"], digests["test"]]))
    return splits["train"].take(np.flatnonzero(~repeated))


def report_duplicates(digests: Mapping[str, np.ndarray], action: str = "") -> dict[str, int]:
    """Print and return how many training images are also in val, and how many in test."""
    repeated = {name: int(duplicates.are_in(digests["train"], digests[name]).sum()) for name in ("val", "test")}
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
