"""Synthetic images: arrays of patterns in noise, and files of photographs."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

CHUNK = 1 << 24  # bytes of images generated at a time


def write_arrays(folder: Path, number: int, shape: tuple[int, ...]) -> None:
    """Write images.npy, (number, *shape) uint8, and targets.npy, (number,) uint8 of ten classes."""
    random = np.random.Generator(np.random.PCG64(0))
    small = random.integers(0, 128, (10, 8, 8), np.uint8)
    patterns = np.stack([np.kron(pattern, np.ones((-(-shape[0] // 8),) * 2, np.uint8)) for pattern in small])
    patterns = patterns[:, : shape[0], : shape[1]].reshape(10, *shape[:2], *[1] * (len(shape) - 2))
    targets = random.integers(0, 10, number, np.uint8)
    folder.mkdir()
    np.save(folder / "targets.npy", targets)
    with (folder / "images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (number, *shape)})
        rows = max(1, CHUNK // int(np.prod(shape)))
        for first in range(0, number, rows):
            chunk = targets[first : first + rows]
            noise = np.frombuffer(random.bytes(len(chunk) * int(np.prod(shape))), np.uint8).reshape(-1, *shape)
            file.write((patterns[chunk] + (noise >> 1)).tobytes())


def write_photographs(folder: Path, number: int) -> dict[str, str]:
    """Write JPEG files of smooth noise, 500 x 375 pixels like the average image of ImageNet; return their sha256."""
    folder.mkdir()
    random = np.random.default_rng(0)
    sha256 = {}
    for row in range(number):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
        path = folder / f"{row}.jpg"
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
        sha256[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return sha256
