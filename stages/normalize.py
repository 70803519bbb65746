"""Stage 2, normalize: data/raw/ -> data/normalized/

    python -m stages.normalize

In:  the original files, whatever their format.
Out: data/normalized/, per split images uint8 (N, C, H, W) of one geometry, targets and source rows, and
     statistics.json with the mean and standard deviation of the training pixels, of them alone.
An official test part stays the test split; otherwise each class is divided by `test_fraction` and `val_fraction`.
"""

from stages.lib.stage import UserError, run

# isort: split

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field

from stages.lib import geometry, readers, statistics
from stages.lib.description import DataDescription
from stages.lib.duplicates import found_in
from stages.lib.files import replacing_folder
from stages.lib.normalized import SPLITS, write_split, write_statistics
from stages.lib.parameters import StageParameters, load
from stages.lib.raw import read_manifest
from stages.lib.readers import Part
from stages.lib.split import stratified

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")
UNEVEN = 10  # times as many images of one class as of another


class Parameters(StageParameters):
    """What normalize reads of params.yaml."""

    image_size: int = Field(ge=1, le=4096, description="pixels a side; other images are resized and cut to a square")
    val_fraction: float = Field(gt=0, le=0.5, description="share of the rows that become the validation split")
    test_fraction: float = Field(gt=0, lt=0.5, description="share that becomes the test split, if none is official")
    unreadable_allowed: int = Field(ge=0, le=10**9, description="images of your own that may be skipped as unreadable")
    drop_duplicates: bool = Field(description="whether training images that are also in val or test are dropped")
    split_seed: int = Field(ge=0, lt=2**32, description="seed of the choice of val and test rows")


def main() -> None:
    parameters = load(Parameters)
    raw = read_manifest(RAW)
    parts, classes = readers.read(raw, size=parameters.image_size, unreadable_allowed=parameters.unreadable_allowed)

    # --- Which row goes where ---
    fractions = {"val": parameters.val_fraction, "test": parameters.test_fraction}
    divided = parts.pop("all", None) or parts.pop("train")
    fractions = {name: fraction for name, fraction in fractions.items() if name not in parts}
    rows = stratified(divided.targets, fractions, seed=parameters.split_seed, names=classes)
    splits = {name: Part(divided.images[own], divided.targets[own], divided.index[own]) for name, own in rows.items()}
    splits |= parts  # the official ones, as they are

    # --- One geometry ---
    images = {split: geometry.fit(part.images, parameters.image_size) for split, part in splits.items()}
    splits = {split: Part(images[split], part.targets, part.index) for split, part in splits.items()}
    again = {split: found_in(images["train"], [images[split]]) for split in ("val", "test")}
    if any(copies.any() for copies in again.values()):
        told = ", ".join(f"{copies.sum():,} also in {split}" for split, copies in again.items())
        print(f"duplicates: of the training images {told}{'; dropped' if parameters.drop_duplicates else ''}")
    if parameters.drop_duplicates:
        train, kept = splits["train"], ~(again["val"] | again["test"])
        splits["train"] = Part(train.images[kept], train.targets[kept], train.index[kept])
    tell_of_classes(splits, classes)

    # --- Statistics of train, of them alone ---
    mean, std = statistics.mean_and_std(statistics.count_values(splits["train"].images))
    sha256: dict[str, str] = {}
    with replacing_folder(NORMALIZED) as folder:
        for split in SPLITS:
            part = splits[split]
            sha256 |= write_split(folder, split, part.images, part.targets, part.index)
            print(f"{split:>5}: {len(part.images):,} images of {' x '.join(map(str, part.images.shape[1:]))}")
        if not all(std):
            raise UserError(f"{RAW}: the training pixels of a channel are all the same; there is nothing to learn from")
        shape = part.images.shape[1:]
        description = DataDescription(dataset=raw.dataset, classes=list(classes), shape=shape, mean=mean, std=std)
        write_statistics(folder, description, sha256)


def tell_of_classes(splits: Mapping[str, Part], classes: Sequence[str]) -> None:
    """Say where the classes are uneven.

    Raises:
        UserError: a class has no image to train on.
    """
    counts = np.bincount(splits["train"].targets, minlength=len(classes))
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
