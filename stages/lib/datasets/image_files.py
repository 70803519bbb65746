"""Shared by the kinds with a file for each image: class numbers, and decoding."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from stages.lib.core.errors import UserError, some
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
    """Return class numbers (N,) int64, and the names of the classes: sorted, by value if all are whole numbers.

    Labels that differ only in spaces around them or in their form of Unicode are one class. Other names that look alike
    are reported, and stay classes of their own.
    """
    name_of = {label: same_text(label) for label in set(labels)}
    names = set(name_of.values())
    if merged := len(name_of) - len(names):
        print(f"merged: {merged:,} label(s) with other spaces around them, or in another form of Unicode")
    alike = defaultdict(list)
    for name in sorted(names):
        alike[looks(name)].append(name)
    if doubtful := [" and ".join(map(repr, group)) for group in alike.values() if len(group) > 1]:
        print(f"warning: classes that look alike: {some(doubtful)}; if they are one, give them one name")
    by_value = all(name.isdecimal() for name in names)
    classes = tuple(sorted(names, key=lambda name: (int(name), name) if by_value else (0, name)))
    number_of = {name: number for number, name in enumerate(classes)}
    return np.array([number_of[name_of[label]] for label in labels], np.int64), classes


def same_text(label: str) -> str:
    """Return a label in the form that all spellings of it have in common of which none is lost: NFC, without spaces."""
    return unicodedata.normalize("NFC", label).strip()


def looks(name: str) -> str:
    """Return a name without what the eye misses: case, width, hyphens or spaces, zeros, invisible characters."""
    with suppress(ValueError):
        return str(float(name))
    visible = "".join(letter for letter in unicodedata.normalize("NFKC", name) if unicodedata.category(letter) != "Cf")
    return re.sub(r"[\s_-]+", " ", visible).strip().casefold()


def decode(files: LabelledFiles, raw: Raw, reading: Reading) -> Contents:
    """Decode the files and return the parts that they make up.

    Raises:
        UserError: more files than allowed cannot be read, or none can.
    """
    images, unreadable = reading.decode(raw.reader, files.names, reading.scratch / "pixels")
    if unreadable:
        by_reason = defaultdict(list)
        for row, why in unreadable.items():
            by_reason[why].append(files.names[row])
        first = some([f"{some(names)} ({why})" for why, names in by_reason.items()])
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
