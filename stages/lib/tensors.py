"""The tensor files in data/tensors/: what cache writes, and train and evaluate map into memory.

A safetensors file per split, with `images` (N, C, H, W) float, standardized; `targets` (N,) int64, or (N, quantities)
float64 in their own units; `index` (N,) int64, the row of the source. What is needed to make sense of them travels
inside, sealed, under the one metadata key "description" (the format keeps metadata unordered, so that two keys would
make two runs differ), and with it the sha256 of the tensors.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from stages.lib.description import DataDescription
from stages.lib.files import replacing
from stages.lib.sealed import seal, unseal
from stages.lib.stage import UserError, reason

REMEDY = "`dvc repro --force cache` makes it again"

if TYPE_CHECKING:  # cache writes with NumPy alone, and importing torch takes seconds
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """One split, mapped into memory and not copied."""

    images: "Tensor"  # (N, C, H, W) float32 or float16, standardized
    targets: "Tensor"  # (N,) int64, class numbers, or (N, quantities) float64
    index: "Tensor"  # (N,) int64, rows of the source
    description: DataDescription
    sha256: str  # hex, of the three tensors

    def __len__(self) -> int:
        return len(self.targets)


def write(path: Path, images: np.ndarray, targets: np.ndarray, index: np.ndarray, description: DataDescription) -> None:
    """Write one split; the images as they are, already standardized.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {"images": images, "targets": targets, "index": index}
    sealed = seal({**description.model_dump(mode="json"), "tensors_sha256": _digest(images, targets, index)})
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata={"description": sealed})
        except SafetensorError as error:  # names no cause that a program could ask for
            raise UserError(f"{path}: cannot be written ({reason(error)}); make room and run it again") from error


def read(path: Path) -> Split:
    """Map one split into memory as torch tensors, and read it once to see that its bits are those that were written.

    Raises:
        UserError: the file is missing, damaged, or not what cache writes.
    """
    try:
        with safe_open(path, framework="pt") as file:
            fields = unseal(file.metadata()["description"])
            images, targets, index = (file.get_tensor(name) for name in ("images", "targets", "index"))
        sha256 = fields.pop("tensors_sha256")
        if _digest(images.numpy(), targets.numpy(), index.numpy()) != sha256:
            raise ValueError("changed since it was written: the sha256 of its tensors is another one")
        return Split(images, targets, index, DataDescription.model_validate(fields), sha256)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: missing or damaged ({reason(error)}); {REMEDY}") from error


def _digest(*arrays: np.ndarray) -> str:
    """sha256 (hex) of types, shapes and bytes; the bytes are not copied for it."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    return digest.hexdigest()
