"""Images from outside of the data, in the geometry and the channels that a model was trained on.

They take the road that normalize's images take: `pixels.decode_all`, and in it `geometry.fit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from stages.lib.array_file import ArrayFile
from stages.lib.description import DataDescription
from stages.lib.inference import rows_at_a_time
from stages.lib.pixels import decode_all

NEARLY = 0.25  # mean of training pixels, 0 to 1, up to which their background is dark, or from 1 less that on light


@dataclass(frozen=True)
class Unseen:
    """The images of some files."""

    images: ArrayFile  # (N, 1 or 3, S, S) uint8
    description: DataDescription  # of what the model was trained on
    unreadable: dict[int, str]  # row -> why; its pixels are 0
    other_way_round: np.ndarray  # (N,) bool: dark on light, where the training images are light on dark, or opposite
    inverted: bool = False  # whether those are turned round

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, first: int, last: int) -> Tensor:
        """The images of rows `first` to before `last`: (n, C, S, S) uint8."""
        images = np.ascontiguousarray(in_channels(self.images[first:last], self.description.shape[0]))
        if self.inverted:
            some = self.other_way_round[first:last]
            images[some] = 255 - images[some]
        return torch.from_numpy(images)


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


def read(files: Sequence[Path], description: DataDescription, decoded: Path, bar: "tqdm[Any]") -> Unseen:
    """Decode files for a model.

    Args:
        files: of any format that Pillow reads; one that cannot be read is told of in `unreadable`.
        description: of the data that the model was trained on.
        decoded: a file to be written, for the pixels.
        bar: goes on by one for each file.
    """
    images, unreadable = decode_all(_content, list(map(str, files)), description.shape[1], decoded, bar)
    step = rows_at_a_time(description)
    blocks = (images[first : first + step] for first in range(0, len(images), step))
    turned = np.concatenate([other_way_round(block, description) for block in blocks])
    turned[list(unreadable)] = False
    return Unseen(images, description, unreadable, turned)


def _content(name: str) -> bytes:
    return Path(name).read_bytes()


def on_light(description: DataDescription) -> bool | None:
    """Whether the training images have a light background, or a dark one; None: they are neither nearly all light nor
    nearly all dark, and nothing can be said.
    """
    mean = float(np.mean(description.mean))
    if NEARLY < mean < 1 - NEARLY:
        return None
    return mean > 0.5


def other_way_round(images: np.ndarray, description: DataDescription) -> np.ndarray:
    """Which images are dark on light though the training images are light on dark, or the other way round.

    A background is known by the pixels at the edge, of which at least half are its.

    Args:
        images: (N, C, S, S) uint8.
        description: of the data that the model was trained on.

    Returns:
        (N,) bool.
    """
    trained = on_light(description)
    if trained is None:
        return np.zeros(len(images), bool)
    edges = np.concatenate([images[..., 0, :], images[..., -1, :], images[..., 1:-1, 0], images[..., 1:-1, -1]], -1)
    light: np.ndarray = np.median(edges.reshape(len(images), -1), axis=1) > 127
    return ~light if trained else light


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
