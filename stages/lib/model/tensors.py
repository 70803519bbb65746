"""A split as train and evaluate use it: torch tensors, whose images stay on disk if they exceed a memory limit.

Images are standardized, (pixel / 255 - mean) / std per channel: by the stage `cache`, or, if it stored bytes, here, one
batch at a time.
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

    images: Tensor | shards.OnDisk  # (N, C, H, W) uint8, float32 or float16; on disk if they exceed the limit
    targets: Tensor  # (N,) int64, class numbers, or (N, quantities) float64
    index: Tensor  # (N,) int64, rows of the source
    description: DataDescription
    sha256: str  # hex, of the whole split
    files: list[str] | None = None  # path of each row below the source; of a test split whose source has files

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, first: int, last: int) -> Tensor:
        """Return the images of rows `first` up to but not including `last`, as they are stored.

        In newly allocated memory: the alignment of a slice could change the last bits of a matrix product.
        """
        if isinstance(self.images, Tensor):
            return self.images[first:last].clone()
        return torch.from_numpy(self.images.images(first, last))


def read(folder: Path, memory: int) -> Split:
    """Read a split; its images into memory if they take at most `memory` bytes.

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
    """Move images and targets to a GPU if the images are in memory and take at most half of its free memory.

    Then no step waits for a copy. Data loader workers cannot read from a GPU: with them, the split stays where it is.
    """
    if device.type == "cpu" or not isinstance(split.images, Tensor) or os.environ.get("LOADER_WORKERS", "0") != "0":
        return split
    if split.images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return split
    return replace(split, images=split.images.to(device), targets=split.targets.to(device))


class Standardize(nn.Module):
    """Stored images (B, C, H, W) of any dtype -> float32, standardized.

    Bytes are scaled and shifted in float32: within rounding of what `cache` computes in double precision.
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
