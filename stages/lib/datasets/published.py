"""Shared by the kinds of published data sets: fetching files of known checksum, and refusing damaged ones."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stages.lib.core.errors import UserError, reason
from stages.lib.datasets.kind import Contents, Download, File, Part
from stages.lib.datasets.raw import FILES, OriginalFiles, Raw

MOST_FILES = 100  # in one archive
# What NumPy, pandas and torchvision raise on damaged files.
DAMAGED = (ValueError, TypeError, AssertionError, LookupError, ArithmeticError, RuntimeError, OSError)


def fetch_files(files: Sequence[File], download: Download) -> OriginalFiles:
    """Fetch all files into the folder of the download."""
    for file in files:
        download.fetch(file)
    return OriginalFiles(sorted(file.name for file in files), download.folder, FILES)


@contextmanager
def damage_refused(raw: Raw) -> Iterator[None]:
    """Turn every error that damaged files cause in the block into a `UserError`."""
    try:
        yield
    except DAMAGED as error:
        if isinstance(error, OSError) and error.errno and raw.root not in Path(error.filename or "").parents:
            raise  # about the disk or the scratch folder, not about these files
        raise UserError(
            f"{raw.root}: the files of {raw.dataset} are missing or damaged ({type(error).__name__}: {reason(error)}); "
            "`dvc repro --force download` fetches them again"
        ) from error


def checked(parts: dict[str, Part], classes: tuple[str, ...]) -> Contents:
    """Return the parts of a classification with their classes.

    Raises:
        ValueError: the images of a part are not uint8 (N, C, H, W), or a target is not the number of a class.
    """
    for part in parts.values():
        first = part.images[:1]
        if first.ndim != 4 or first.dtype != np.uint8:
            raise ValueError(f"images of shape {first.shape} and type {first.dtype}")
        if part.targets.min() < 0 or part.targets.max() >= len(classes):
            raise ValueError(f"a label outside of the {len(classes)} classes")
    return Contents(parts, classes)


def md5_of(path: Path) -> str:
    """Return the MD5 of a file's content, in hex: the checksum that most publishers give.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
