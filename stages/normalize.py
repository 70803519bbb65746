"""Stage 2, normalize: data/raw/ -> data/normalized/

    python -m stages.normalize

In:  the original files, whatever their format.
Out: data/normalized/{train,val,test}/, images uint8 (N, C, H, W) of one geometry, targets and source rows, of test also
     the paths of the files if the source has a file per image; and with each split what the data are: classes, and
     mean and standard deviation of the training pixels, of them alone; of a regression also those of its targets.
Images are read once, a block at a time, however many there are. An official test part stays the test split; otherwise
each class is divided by `test_fraction` and `val_fraction`.
"""

from stages.lib.core.process import run

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from stages.lib.core.errors import UserError
from stages.lib.core.files import replacing_folder
from stages.lib.core.parameters import StageParameters, load
from stages.lib.datasets import readers
from stages.lib.datasets.labels import CLASSIFICATION, TASKS
from stages.lib.datasets.raw import read_manifest
from stages.lib.datasets.readers import Part
from stages.lib.preprocessing import duplicates, geometry, pixel_statistics, splitting
from stages.lib.splits.description import DataDescription, Quantity
from stages.lib.splits.shards import SPLITS, Writer

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")
BLOCK = 1 << 23  # bytes of original pixels at a time
UNEVEN = 10  # times as many images of one class as of another


class Parameters(StageParameters):
    """What normalize reads of params.yaml."""

    task: str = Field(
        default="classification", description="what the targets are", json_schema_extra={"enum": list(TASKS)}
    )
    image_size: int = Field(
        default=28, ge=2, le=4096, description="pixels a side; other images are resized and cut to a square"
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
    with readers.opened(
        raw,
        task=parameters.task,
        size=parameters.image_size,
        unreadable_allowed=parameters.unreadable_allowed,
    ) as (parts, called):
        classes = called if parameters.task == CLASSIFICATION else ()

        # --- Which image goes where ---
        splits = divided(parts, classes, parameters)
        if empty := [name for name, part in splits.items() if not len(part.targets)]:
            raise UserError(f"{RAW}: no image is left for {' and '.join(empty)}; add some to the source")
        if parameters.drop_duplicates:
            splits["train"] = without_duplicates(splits, parameters.image_size)
        if classes:
            tell_of_classes(splits["train"].targets, classes)

        with replacing_folder(NORMALIZED) as folder:
            # --- All of one geometry, block by block; what train holds is counted ---
            shape = (splits["train"].images[:1].shape[1], parameters.image_size, parameters.image_size)
            writers = {name: Writer(folder / name, shape, np.dtype(np.uint8)) for name in SPLITS}
            digests = {name: np.empty(len(part.targets), np.uint64) for name, part in splits.items()}
            counts = np.zeros((shape[0], 256), np.int64)
            for name, images, rows in fitted(splits, parameters.image_size):
                part = splits[name]
                # Only evaluate names files. Without them in train and val, renamed files do not start a new training.
                files = [part.files[row] for row in part.index[rows]] if part.files and name == "test" else None
                writers[name].append(images, part.targets[rows], part.index[rows], files)
                digests[name][rows] = duplicates.digests(images)
                if name == "train":
                    counts += pixel_statistics.count_values(images)
            duplicates_left = tell_of_duplicates(digests)

            # --- Statistics of train, of it alone ---
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
                quantities=[] if classes else quantities(splits["train"].targets, called),
                origin=origin(parts, classes, parameters),
                duplicates=duplicates_left,
            )
            for name, writer in writers.items():
                number = writer.finish(description, "normalize")
                print(f"{name:>5}: {number:,} images of {' x '.join(map(str, shape))}")


def divided(parts: Mapping[str, Part], classes: Sequence[str], parameters: Parameters) -> dict[str, Part]:
    """train, val and test: the official parts as they are, and what they lack out of train.

    Each class by itself; of a regression, all images alike; groups as a whole.
    """
    official = {name: part for name, part in parts.items() if name in ("val", "test")}
    rest = parts["all"] if "all" in parts else parts["train"]
    fractions = fractions_drawn(parts, parameters)
    numbers = rest.targets if classes else np.zeros(len(rest.targets), np.int64)
    if rest.groups is not None and fractions:
        rows = splitting.grouped(numbers, rest.groups, fractions, seed=parameters.split_seed)
    else:
        rows = splitting.stratified(numbers, fractions, seed=parameters.split_seed, names=classes or ["image"])
    return {name: rest.take(own) for name, own in rows.items()} | official


def fractions_drawn(parts: Mapping[str, Part], parameters: Parameters) -> dict[str, float]:
    """The splits that the source does not have, and their shares of its training part."""
    fractions = {"val": parameters.val_fraction, "test": parameters.test_fraction}
    return {name: fraction for name, fraction in fractions.items() if name not in parts}


def origin(parts: Mapping[str, Part], classes: Sequence[str], parameters: Parameters) -> dict[str, str]:
    """How val and test came about, for the model card."""
    told = dict.fromkeys(("val", "test"), "the source's own")
    rest = "train" if "train" in parts else "all"
    how = "each class by itself" if classes else "all alike"
    if parts[rest].groups is not None:
        how = "groups as a whole"
    for name, fraction in fractions_drawn(parts, parameters).items():
        of_what = "the source's training images" if rest == "train" else "all images"
        told[name] = f"{fraction:g} of {of_what}, drawn by split_seed {parameters.split_seed}, {how}"
    return told


def fitted(splits: Mapping[str, Part], size: int) -> Iterator[tuple[str, np.ndarray, slice]]:
    """The images of all splits, each read once, in the order in which the source has them.

    Yields:
        The name of a split, some of its images (n, C, size, size) uint8, and which of its rows they are.
    """
    sources = {id(part.images): part.images for part in splits.values()}
    for source in sources.values():
        mine = {name: part for name, part in splits.items() if part.images is source}
        block = max(1, BLOCK // source[:1].nbytes)
        for start in range(0, len(source), block):
            found = {name: np.searchsorted(part.index, [start, start + block]) for name, part in mine.items()}
            if all(first == last for first, last in found.values()):
                continue
            images = source[start : start + block]
            for name, (first, last) in found.items():
                if first < last:
                    own = images[mine[name].index[first:last] - start]
                    yield name, geometry.fit(own, size), slice(first, last)


def without_duplicates(splits: Mapping[str, Part], size: int) -> Part:
    """The training split without the images that are also in val or test."""
    digests = {name: np.empty(len(part.targets), np.uint64) for name, part in splits.items()}
    for name, images, rows in fitted(splits, size):
        digests[name][rows] = duplicates.digests(images)
    tell_of_duplicates(digests, "; dropped")
    again = duplicates.found_in(digests["train"], np.concatenate([digests["val"], digests["test"]]))
    return splits["train"].take(np.flatnonzero(~again))


def tell_of_duplicates(digests: Mapping[str, np.ndarray], what_then: str = "") -> dict[str, int]:
    """Say, and give, how many training images are also in val, and how many in test."""
    again = {name: int(duplicates.found_in(digests["train"], digests[name]).sum()) for name in ("val", "test")}
    if any(again.values()):
        told = ", ".join(f"{count:,} also in {name}" for name, count in again.items())
        print(f"duplicates: of the training images {told}{what_then}")
    return again


def quantities(targets: np.ndarray, names: Sequence[str]) -> list[Quantity]:
    """Mean and standard deviation of what a regression predicts: of (N, quantities) float64.

    Raises:
        UserError: one of them is everywhere the same.
    """
    found = []
    for name, values in zip(names, targets.T, strict=True):
        if values.min() == values.max():
            raise UserError(f"{RAW}: {name} is {values[0]:g} in every training row; there is nothing to learn from")
        try:
            mean, std = pixel_statistics.mean_and_std_of_reals(values)
        except OverflowError:
            mean, std = math.inf, math.inf
        if not (math.isfinite(mean) and 0 < std < math.inf):
            raise UserError(f"{RAW}: {name} is too large or too small to be standardized; give it in another unit")
        found.append(Quantity(name=name, mean=mean, std=std))
    return found


def tell_of_classes(targets: np.ndarray, classes: Sequence[str]) -> None:
    """Say where the classes are uneven.

    Raises:
        UserError: a class has no image to train on.
    """
    counts = np.bincount(targets, minlength=len(classes))
    if not counts.all():
        missing = ", ".join(name for name, count in zip(classes, counts, strict=True) if not count)
        raise UserError(
            f"{RAW}: no training image of class {missing}; add some, or leave the class out of val and test"
        )
    if counts.max() >= UNEVEN * counts.min():
        most, least = (f"{classes[row]} {counts[row]:,}" for row in (int(counts.argmax()), int(counts.argmin())))
        print(f"uneven classes: {most} training images, {least}")


if __name__ == "__main__":
    run(main)
