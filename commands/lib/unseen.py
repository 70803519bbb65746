"""Images from outside of the data, in the geometry and the channels that a model was trained on.

`pixels.prepare_all` decodes them, as it does normalize's images, and `geometry.fit` resizes them, or `placing.placed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from commands.lib import backgrounds
from commands.lib.placing import placed, without_paper
from stages.lib.datasets.array_file import ArrayFile
from stages.lib.preprocessing.decoding import prepare_all
from stages.lib.preprocessing.geometry import fit
from stages.lib.splits.description import DataDescription


class Background(NamedTuple):
    """What the background of an image says."""

    opposite: bool  # whether it seems to be light where the training images' is dark, or dark where theirs is light
    clear: bool  # whether that is beyond doubt: `backgrounds.is_clear`
    inverted: bool  # whether the image was inverted


@dataclass(frozen=True)
class Unseen:
    """The images of some files."""

    images: ArrayFile  # (N, 1 or 3, S, S) uint8, inverted and placed already
    description: DataDescription  # of what the model was trained on
    unreadable: dict[int, str]  # row -> why; its pixels are 0
    backgrounds: dict[int, Background]  # row -> background, of the others

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, first: int, last: int) -> Tensor:
        """The images of rows `first` to before `last`: (n, C, S, S) uint8."""
        return torch.from_numpy(np.ascontiguousarray(in_channels(self.images[first:last], self.description.shape[0])))


def files_of(path: Path) -> list[Path]:
    """The file itself, or all images in a folder and the folders in it, in the order of their names; no hidden ones.

    Raises:
        ValueError: no image is in it, or it is neither file nor folder.
    """
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError("neither a file nor a folder")
        return [path]
    readable = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    every = (file for file in path.rglob("*") if not any(part[0] == "." for part in file.relative_to(path).parts))
    found = sorted(file for file in every if file.is_file())
    images = [file for file in found if file.suffix.lower() in readable]
    if not images:
        raise ValueError(f"holds no image, {len(found):,} other file(s); expected such as 7.png in it")
    if others := len(found) - len(images):
        print(f"left out: {others:,} file(s) in {path}, no image by their names")
    return images


def read(
    files: Sequence[Path],
    description: DataDescription,
    decoded: Path,
    bar: "tqdm[Any]",
    *,
    invert: bool = False,
    place: bool = False,
) -> Unseen:
    """Decode files for a model.

    Args:
        files: of any format that Pillow reads; why one cannot be read is in `unreadable`.
        description: of the data that the model was trained on.
        decoded: a file to be written, for the pixels.
        bar: goes on by one for each file.
        invert: whether to invert the images whose background is opposite to that of the training images.
        place: whether to place each as MNIST's digits are, for a model of light drawings on a dark background; an image
            that shows no drawing is in `unreadable`.
    """
    trained_on_light = backgrounds.on_light(description)
    prepare = partial(_prepare, description.shape[0], trained_on_light, invert, place)
    names = list(map(str, files))
    images, unreadable, found = prepare_all(_content, prepare, names, description.shape[1], decoded, bar)
    return Unseen(images, description, unreadable, found)


def _prepare(
    channels: int, trained_on_light: bool | None, invert: bool, place: bool, pixels: np.ndarray, size: int
) -> tuple[np.ndarray, Background]:
    """An image (3, H, W) as the model takes it, in three channels: (3, size, size)."""
    # A drawing is placed at its own size: in a corner of a large sheet, nothing of it is left in 28 pixels.
    image = in_channels(pixels[np.newaxis] if place else fit(pixels[np.newaxis], size), channels)[0]
    opposite = trained_on_light is not None and backgrounds.seems_on_light(image) != trained_on_light
    background = Background(opposite, opposite and backgrounds.is_clear(image), opposite and invert)
    if background.inverted:
        image = 255 - image
    if place:
        if opposite and not invert:
            raise ValueError("dark on light, it seems, and only light drawings can be placed; --invert each inverts it")
        image = placed(without_paper(image[0], size), size)[np.newaxis]
    return np.broadcast_to(image, (3, size, size)), background


def _content(name: str) -> bytes:
    return Path(name).read_bytes()


def in_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Grey images in three channels, or coloured ones in grey, by the weights of ITU-R 601-2 that Pillow takes.

    Args:
        images: (N, 1 or 3, S, S) uint8; grey in three equal channels keeps its values.
        channels: 1 or 3.
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.repeat(3, 1)
    grey = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in images]
    return np.stack(grey)[:, np.newaxis]
