"""The tensor files in data/tensors/: what cache writes, and train and evaluate map into memory.

A safetensors file per split, with `images` (N, C, H, W) float, standardized; `targets` (N,) int64; `index` (N,) int64,
the row of the source. What is needed to make sense of them travels inside, as JSON under the one metadata key
"description": the format keeps metadata unordered, so that two keys would make two runs differ.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.lib.description import DataDescription
from stages.lib.files import replacing
from stages.lib.stage import UserError, reason

REMEDY = "`dvc repro --force cache` makes it again"

if TYPE_CHECKING:  # cache writes with NumPy alone, and importing torch takes seconds
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One split, mapped into memory: reading a row touches the disk once, and nothing is copied before that."""

    images: "Tensor"  # (N, C, H, W) float32 or float16, standardized
    targets: "Tensor"  # (N,) int64, class numbers
    index: "Tensor"  # (N,) int64, rows of the source
    description: DataDescription

    def __len__(self) -> int:
        return len(self.targets)


def write(path: Path, images: np.ndarray, targets: np.ndarray, index: np.ndarray, description: DataDescription) -> None:
    """Write one split; the images as they are, already standardized."""
    tensors = {"images": images, "targets": targets, "index": index}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata={"description": description.model_dump_json()})


def read(path: Path) -> Split:
    """Map one split into memory as torch tensors.

    Raises:
        UserError: the file is missing, damaged, or not what cache writes.
    """
    try:
        with safe_open(path, framework="pt") as file:
            description = DataDescription.model_validate_json(file.metadata()["description"])
            split = Split(
                images=file.get_tensor("images"),
                targets=file.get_tensor("targets"),
                index=file.get_tensor("index"),
                description=description,
            )
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: missing or damaged ({reason(error)}); {REMEDY}") from error
    shapes = [list(tensor.shape) for tensor in (split.images, split.targets, split.index)]
    if shapes != [[len(split), *description.shape], [len(split)], [len(split)]] or not len(split):
        raise UserError(f"{path}: found tensors of shapes {shapes}; {REMEDY}")
    if not 0 <= split.targets.min() <= split.targets.max() < len(description.classes):
        raise UserError(f"{path}: a target outside of its {len(description.classes)} classes; {REMEDY}")
    return split
