"""What a source of one's own says of its images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CLASSIFICATION, REGRESSION = "classification", "regression"
TASKS = (CLASSIFICATION, REGRESSION)


@dataclass(frozen=True)
class Labelled:
    """Images and what is known of each, in the order of the source."""

    names: list[str]  # of the files, below the root
    targets: np.ndarray  # (N,) int64, class numbers, or (N, quantities) float64
    called: tuple[str, ...]  # the classes in the order of their numbers, or the quantities
    parts: list[str]  # "train", "val" or "test"; "all" where the source is not divided
    groups: np.ndarray | None  # (N,) int64, whose images no two splits may share; None: each by itself


def numbered(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Class numbers (N,) int64, and the names of the classes: sorted, whole numbers by their value."""
    names = set(labels)
    numbers = all(name.isdecimal() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name), name) if numbers else (0, name)))
    number_of = {name: number for number, name in enumerate(classes)}
    return np.array([number_of[label] for label in labels], np.int64), classes
