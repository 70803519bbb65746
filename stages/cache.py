"""Stage 3, cache: data/normalized/ -> data/tensors/

    python -m stages.cache

In:  uint8 images, targets and statistics.
Out: data/tensors/{train,val,test}.safetensors: standardized, contiguous, ready to be mapped into memory.
"""

from stages.lib.stage import run

# isort: split

from pathlib import Path

import numpy as np
from pydantic import Field

from stages.lib import normalized, tensors
from stages.lib.files import replacing_folder
from stages.lib.parameters import StageParameters, load

NORMALIZED = Path("data/normalized")
TENSORS = Path("data/tensors")


class Parameters(StageParameters):
    """What cache reads of params.yaml."""

    storage_dtype: str = Field(
        description="type of the stored pixels: float32 (4 bytes each) or float16 (2 bytes, rounded)",
        json_schema_extra={"enum": ["float32", "float16"]},
    )


def main() -> None:
    parameters = load(Parameters)
    description, sha256 = normalized.read_statistics(NORMALIZED)
    with replacing_folder(TENSORS) as folder:
        for split in normalized.SPLITS:
            images, targets, index = normalized.read_split(NORMALIZED, split, sha256)
            standardized = standardize(images, description.mean, description.std).astype(
                parameters.storage_dtype, copy=False
            )
            path = folder / f"{split}.safetensors"
            tensors.write(path, standardized, np.asarray(targets), np.asarray(index), description)
            print(f"{split:>5}: {len(images):,} images, {path.stat().st_size:,} bytes")


def standardize(images: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """(pixel / 255 - mean) / std, per channel: (N, C, H, W) uint8 -> float32 of the same shape.

    A pixel has 256 values, so each channel's results are looked up in a table computed in double precision.
    """
    table = ((np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)  # (C, 256)
    standardized = np.empty(images.shape, np.float32)
    for channel in range(images.shape[1]):
        standardized[:, channel] = table[channel][images[:, channel]]
    return standardized


if __name__ == "__main__":
    run(main)
