"""JPEG files read by torchvision's decoder: the pixels of Pillow's, in three quarters of the time.

Both are libjpeg-turbo, but Pillow stores four bytes a pixel first. torchvision's library of operators is loaded without
importing torchvision, which takes two seconds. Whatever it cannot read is left to Pillow. It is used in the processes
that decode many files: libjpeg-turbo writes remarks on damaged ones to stderr, which those have closed, or which is the
log of a cluster's worker.
"""

import importlib.util
from functools import cache
from multiprocessing import parent_process
from pathlib import Path
from typing import Any

import numpy as np

LIBRARIES = ("image.so", "image.pyd")


def decode(content: bytes) -> np.ndarray | None:
    """Decode a JPEG file with three channels: (3, H, W) uint8; None: Pillow has to read it, or say why it cannot."""
    decoder = _decoder() if parent_process() else None
    if decoder is None:
        return None
    import torch

    try:
        pixels: np.ndarray = decoder(torch.frombuffer(bytearray(content), dtype=torch.uint8), 3, False).numpy()
    except RuntimeError:  # a damaged file: Pillow says what is wrong
        return None
    return pixels


@cache
def _decoder() -> Any:
    import torch

    found = importlib.util.find_spec("torchvision")
    folder = Path(found.origin or "").parent if found else Path()
    for path in (folder / name for name in LIBRARIES if (folder / name).exists()):
        try:
            torch.ops.load_library(path)
        except OSError:  # built for another version of torch
            return None
        return torch.ops.image.decode_jpeg
    return None
