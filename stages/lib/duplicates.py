"""Images that stand in two splits, pixel for pixel: who trains on a test image knows its answer."""

import hashlib
from collections.abc import Iterable

import numpy as np


def found_in(images: np.ndarray, others: Iterable[np.ndarray]) -> np.ndarray:
    """Which of the images are also among the others: (N, C, H, W) uint8 -> (N,) bool."""
    known = {digest for other in others for digest in _digests(other)}
    return np.array([digest in known for digest in _digests(images)], bool)


def _digests(images: np.ndarray) -> list[bytes]:
    return [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images]
