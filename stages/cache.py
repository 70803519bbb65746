"""Stage 3, cache: data/normalized/ -> data/tensors/

    python -m stages.cache

In:  uint8 images, targets, file names and statistics.
Out: data/tensors/{train,val,test}/, the same ready for training: images standardized, or unchanged, in which case train
     and evaluate standardize them. Unchanged ones take a fourth of the disk space, and DVC stores them once for both
     stages.
"""

from stages.lib.core.process import run

from pathlib import Path

import numpy as np
from pydantic import Field

from stages.lib.core import SPLITS
from stages.lib.core.files import replacing_folder
from stages.lib.core.parameters import StageParameters, load
from stages.lib.splits import shards

NORMALIZED = Path("data/normalized")
TENSORS = Path("data/tensors")
BLOCK = 1 << 22  # bytes of pixels at a time


class Parameters(StageParameters):
    """What cache reads of params.yaml."""

    storage_dtype: str = Field(
        default="uint8",
        description="type of the stored pixels: uint8 (as they are), float32 (4 bytes each) or float16 (2, rounded)",
        json_schema_extra={"enum": ["uint8", "float32", "float16"]},
    )


def main() -> None:
    parameters = load(Parameters)
    dtype = np.dtype(parameters.storage_dtype)
    with replacing_folder(TENSORS) as folder:
        for name in SPLITS:
            split = shards.read(NORMALIZED / name)
            data, targets, index = split.description, split.labels("targets"), split.labels("index")
            files = split.files()
            writer = shards.Writer(folder / name, data.shape, dtype)
            block = max(1, BLOCK // split.bytes_of_a_row)
            for first in range(0, len(split), block):
                rows = slice(first, min(first + block, len(split)))
                images = split.images(rows.start, rows.stop)
                if dtype != np.uint8:
                    images = standardize(images, data.mean, data.std).astype(dtype, copy=False)
                writer.append(images, targets[rows], index[rows], files and files[rows])
            writer.finish(data, "cache")
            size = sum(file.stat().st_size for file in (folder / name).iterdir())
            print(f"{name:>5}: {len(split):,} images, {size:,} bytes")


def standardize(images: np.ndarray, mean: list[float], std: list[float]) -> np.ndarray:
    """Return (pixel / 255 - mean) / std, per channel: (N, C, H, W) uint8 -> float32 of the same shape.

    A pixel has 256 values, so the results of each channel are looked up in a table, computed in double precision.
    """
    table = ((np.arange(256) / 255 - np.array(mean)[:, None]) / np.array(std)[:, None]).astype(np.float32)  # (C, 256)
    standardized = np.empty(images.shape, np.float32)
    for channel in range(images.shape[1]):
        standardized[:, channel] = table[channel][images[:, channel]]
    return standardized


if __name__ == "__main__":
    run(main)
