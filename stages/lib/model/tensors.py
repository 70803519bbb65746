"""A split as train and evaluate compute with it: torch tensors, of the images as many as memory is to hold.

Images are standardized, (pixel / 255 - mean) / std of each channel, either by cache once and for all, or, where it left
them the bytes that they are, here, when a batch of them is about to be used.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription


@dataclass(frozen=True)
class Split:
    """One split."""

    images: Tensor | shards.OnDisk  # (N, C, H, W) uint8, float32 or float16; on the disk what memory is not to hold
    targets: Tensor  # (N,) int64, class numbers, or (N, quantities) float64
    index: Tensor  # (N,) int64, rows of the source
    description: DataDescription
    sha256: str  # hex, of all of it
    files: list[str] | None = None  # paths of the rows below the source, of a test split whose source has files

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, first: int, last: int) -> Tensor:
        """The images of rows `first` to before `last`, as they are stored.

        In memory of their own: where a piece of a tensor happens to lie would change the last bits of a product.
        """
        if isinstance(self.images, Tensor):
            return self.images[first:last].clone()
        return torch.from_numpy(self.images.images(first, last))


def read(folder: Path, memory: int) -> Split:
    """A split; its images in memory if they take at most `memory` bytes.

    Raises:
        UserError: a file is missing, damaged, or not what cache writes.
    """
    stored = shards.read(folder)
    targets, index = (torch.from_numpy(stored.labels(name)) for name in ("targets", "index"))
    images: Tensor | shards.OnDisk = stored
    if len(stored) * stored.bytes_of_a_row <= memory:
        images = torch.from_numpy(stored.images(0, len(stored)))
    return Split(images, targets, index, stored.description, stored.sha256, stored.files())


def on_device(split: Split, device: torch.device) -> Split:
    """The split with images and targets on a GPU, if memory holds the images and half of what is free there does.

    Then no step waits for a copy. Processes that load ahead cannot reach them there: they are left where they are.
    """
    if device.type == "cpu" or not isinstance(split.images, Tensor) or os.environ.get("LOADER_WORKERS", "0") != "0":
        return split
    if split.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return split
    return replace(split, images=split.images.to(device), targets=split.targets.to(device))


class Standardize(nn.Module):
    """Stored images of any type (B, C, H, W) -> float32, standardized.

    Bytes are scaled and shifted in float32: within rounding of what cache computes in double precision.
    """

    scale: Tensor  # (C, 1, 1) float32
    shift: Tensor

    def __init__(self, description: DataDescription) -> None:
        super().__init__()
        mean, std = (
            torch.tensor(values, dtype=torch.float64).reshape(-1, 1, 1)
            for values in (description.mean, description.std)
        )
        self.register_buffer("scale", (1 / (255 * std)).float(), persistent=False)
        self.register_buffer("shift", (-mean / std).float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        standardized = images.float()
        if images.dtype == torch.uint8:
            standardized.mul_(self.scale).add_(self.shift)
        return standardized
