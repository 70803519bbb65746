"""Stage 2, normalize: data/raw/ -> data/normalized/

    python -m stages.normalize

In:  the original files, whatever their format.
Out: data/normalized/, per split images uint8 (N, C, H, W) of one geometry, targets and source rows, and
     statistics.json with the mean and standard deviation of the training pixels, of them alone.
An official test part stays the test split; otherwise each class is divided by `test_fraction` and `val_fraction`.
"""

from stages.lib.stage import UserError, reason, run

# isort: split

import json
from pathlib import Path

import numpy as np
from pydantic import Field

from stages.lib import geometry, readers, statistics
from stages.lib.datasets import DATASETS
from stages.lib.description import DataDescription
from stages.lib.files import replacing_folder
from stages.lib.normalized import SPLITS, write_split, write_statistics
from stages.lib.parameters import StageParameters, load
from stages.lib.split import stratified

RAW = Path("data/raw")
NORMALIZED = Path("data/normalized")


class Parameters(StageParameters):
    """What normalize reads of params.yaml."""

    image_size: int = Field(ge=1, le=4096, description="pixels a side; other images are resized and cut to a square")
    val_fraction: float = Field(gt=0, le=0.5, description="share of the rows that become the validation split")
    test_fraction: float = Field(gt=0, lt=0.5, description="share that becomes the test split, if none is official")
    split_seed: int = Field(ge=0, lt=2**32, description="seed of the choice of val and test rows")


def main() -> None:
    parameters = load(Parameters)
    dataset = read_dataset_name()
    parts, classes = readers.read(dataset, RAW)

    fractions = {"val": parameters.val_fraction}
    if "test" not in parts:
        fractions["test"] = parameters.test_fraction
    divided = parts.get("train") or parts["all"]
    rows = stratified(divided.targets, fractions, seed=parameters.split_seed)

    sha256: dict[str, str] = {}
    with replacing_folder(NORMALIZED) as folder:
        for split in SPLITS:
            if split in rows:
                index = rows[split]
                images, targets = divided.images[index], divided.targets[index]
            else:  # the official test part, as it is
                images, targets = parts[split].images, parts[split].targets
                index = np.arange(len(targets))
            images = geometry.fit(images, parameters.image_size)
            sha256 |= write_split(folder, split, images, targets, index)
            if split == "train":
                mean, std = statistics.mean_and_std(statistics.count_values(images))
            print(f"{split:>5}: {len(images):,} images of {' x '.join(map(str, images.shape[1:]))}")
        if not all(std):
            raise UserError(f"{RAW}: the training pixels of a channel are all the same; there is nothing to learn from")
        shape = images.shape[1:]
        description = DataDescription(dataset=dataset, classes=list(classes), shape=shape, mean=mean, std=std)
        write_statistics(folder, description, sha256)


def read_dataset_name() -> str:
    """The name that download wrote beside the files.

    Raises:
        UserError: data/raw/ is not there, or is not what download wrote.
    """
    path = RAW / "dataset.json"
    try:
        name = str(json.loads(path.read_text(encoding="utf-8"))["dataset"])
        if name not in DATASETS:
            raise ValueError(f"unknown data set {name}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: missing or damaged ({reason(error)}); run `dvc repro`, which downloads first"
        ) from error
    return name


if __name__ == "__main__":
    run(main)
