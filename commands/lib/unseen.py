"""Images from outside of the data set, in the geometry and the channels that a model was trained on.

`decoding.prepare_all` decodes them, as it does for normalize; `geometry.fit` or `placing.placed` resizes them.
"""

import sys
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
from stages.lib.datasets.image_names import is_image_file
from stages.lib.datasets.kind import Rows
from stages.lib.fetching.sources import visible
from stages.lib.preprocessing.decoding import prepare_all
from stages.lib.preprocessing.geometry import fit
from stages.lib.preprocessing.processes import all_processors
from stages.lib.splits.description import DataDescription


class Background(NamedTuple):
    """The background of an image, compared with the training images."""

    opposite: bool  # light where theirs is dark, or dark where theirs is light
    clear: bool  # and clearly so: `backgrounds.is_clear`
    inverted: bool  # and the image was inverted


@dataclass(frozen=True)
class Unseen:
    """Decoded images."""

    images: Rows  # (N, 1 or 3, S, S) uint8, already inverted and placed
    description: DataDescription  # of the training data
    unreadable: dict[int, str]  # row -> reason; its pixels are 0
    remarks: list[str]  # lines about what the pixels do not show
    backgrounds: dict[int, Background]  # row -> background, of the readable ones

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, first: int, last: int) -> Tensor:
        """Return the images of rows `first` up to but not including `last`: (n, C, S, S) uint8."""
        return torch.from_numpy(np.ascontiguousarray(in_channels(self.images[first:last], self.description.shape[0])))


def files_of(path: Path) -> list[Path]:
    """List the images in a folder and its subfolders, sorted, also behind links; or the file itself.

    Raises:
        ValueError: there is no image, or the path is neither a file nor a folder.
        UserError: as in `sources.visible`.
    """
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise ValueError("neither a file nor a folder")
        return [path]
    files = sorted(folder / name for folder, _, names in visible(path, links=True) for name in names)
    images = [file for file in files if is_image_file(file)]
    if not images:
        raise ValueError(f"contains no image, {len(files):,} other file(s); expected images such as 7.png")
    if others := len(files) - len(images):
        print(f"predict: left out: {others:,} file(s) in {path}, no images", file=sys.stderr)
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
        files: of any format that Pillow reads. Errors are returned in `unreadable`.
        description: of the training data.
        decoded: a folder to write the pixels to, which must not exist.
        bar: advanced by one for each file.
        invert: whether to invert images whose background is opposite to that of the training images.
        place: whether to place each image as MNIST's digits are, for a model of light drawings on a dark background.
            Blank images are returned in `unreadable`.
    """
    prepare = partial(_prepare, description.shape[0], backgrounds.trained_on_light(description), invert, place)
    names = list(map(str, files))
    white = description.max_pixel_value
    with all_processors() as run:
        prepared = prepare_all(lambda _: _content, prepare, names, description.shape[1], decoded, run, bar, white=white)
    return Unseen(prepared.images, description, prepared.unreadable, prepared.remarks(names, white), prepared.notes)


def _prepare(
    channels: int, trained_on_light: bool | None, invert: bool, place: bool, pixels: np.ndarray, size: int
) -> tuple[np.ndarray, Background]:
    """Bring an image (3, H, W) to the model's geometry, in three channels: (3, size, size)."""
    # A drawing is placed at its original size: resized first, a small one on a large sheet would vanish.
    image = in_channels(pixels[np.newaxis] if place else fit(pixels[np.newaxis], size), channels)[0]
    opposite = trained_on_light is not None and backgrounds.is_light(image) != trained_on_light
    background = Background(opposite, opposite and backgrounds.is_clear(image), opposite and invert)
    if background.inverted:
        image = 255 - image
    if place:
        if opposite and not invert:
            raise ValueError("appears to be dark on light; --place takes light drawings: invert it with --invert each")
        image = placed(without_paper(image[0], size), size)[np.newaxis]
    return np.broadcast_to(image, (3, size, size)), background


def _content(name: str) -> bytes:
    return Path(name).read_bytes()


def in_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """Convert grey images to three channels, or colour images to grey by the weights of ITU-R 601-2, as Pillow does.

    Args:
        images: (N, 1 or 3, S, S) uint8. Grey in three equal channels keeps its values.
        channels: 1 or 3.
    """
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.repeat(3, 1)
    grey = [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in images]
    return np.stack(grey)[:, np.newaxis]
