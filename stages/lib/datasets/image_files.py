"""Shared by the kinds with a file for each image: class numbers, and decoding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stages.lib.core.errors import UserError
from stages.lib.datasets.kind import Contents, Part, Reading
from stages.lib.datasets.raw import Raw


@dataclass(frozen=True)
class LabelledFiles:
    """Image files with their targets, parts and groups, in the order of the source."""

    names: list[str]  # paths below the root
    targets: np.ndarray  # (N,) int64, class numbers, or (N, quantities) float64
    labels: tuple[str, ...]  # names of the classes in the order of their numbers, or of the quantities
    parts: list[str]  # "train", "val" or "test" of each; "all" where the source has no splits
    groups: np.ndarray | None  # (N,) int64; no two splits may share a group; None: there are no groups


def number_classes(labels: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return class numbers (N,) int64, and the names of the classes: sorted, by value if all are whole numbers."""
    names = set(labels)
    by_value = all(name.isdecimal() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name), name) if by_value else (0, name)))
    number_of = {name: number for number, name in enumerate(classes)}
    return np.array([number_of[label] for label in labels], np.int64), classes


def decode(files: LabelledFiles, raw: Raw, reading: Reading) -> Contents:
    """Decode the files and return the parts that they make up.

    Raises:
        UserError: more files than allowed cannot be read, or none can.
    """
    images, unreadable = reading.decode(raw.content, files.names, reading.scratch / "pixels")
    if unreadable:
        first = ", ".join(f"{files.names[row]} ({why})" for row, why in list(unreadable.items())[:5])
        message = f"{len(unreadable):,} of {len(files.names):,} files cannot be read: {first}"
        if len(unreadable) > reading.unreadable_allowed:
            raise UserError(f"{message}; put them right, or raise unreadable_allowed, now {reading.unreadable_allowed}")
        if len(unreadable) == len(files.names):
            raise UserError(f"{message}; none is left")
        print(f"skipped: {message}")
    everything = Part(images, files.targets, np.arange(len(images)), files.groups, files.names)
    parts = {}
    for name in sorted(set(files.parts)):
        rows = [row for row, part in enumerate(files.parts) if part == name and row not in unreadable]
        parts[name] = everything.take(np.array(rows, np.int64))
    return Contents(parts, files.labels)
