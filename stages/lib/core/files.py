"""Atomic writes: files and folders appear under their final name only when they are complete.

New content is written under a temporary name in the same folder, flushed to disk, then renamed. Whatever interrupts
that (an exception, a signal, a full disk, a power cut) leaves the previous content unchanged. The temporary name is
always the same: the next run overwrites what a killed run left, and restores a folder that was being renamed.
"""

import csv
import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

STATE = Path(".state")  # what a run leaves for the next one; ignored by git and DVC


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file; it replaces `path` if the block raises no exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with with_file_name(path):
            yield temporary
            _flush(temporary)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield the path of an empty temporary folder; it replaces folder `path` if the block raises no exception."""
    temporary, earlier = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old.tmp")
    if earlier.exists() and not path.exists():
        os.replace(earlier, path)  # a run was killed between the two renames below
    for leftover in (temporary, earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        with with_file_name(path):
            yield temporary
            for file in [*temporary.rglob("*"), temporary]:
                _flush(file)
            if path.exists():
                os.replace(path, earlier)  # a folder cannot be renamed over one that is not empty
            os.replace(temporary, path)
    finally:
        if earlier.exists() and not path.exists():
            os.replace(earlier, path)
        for leftover in (temporary, earlier):
            shutil.rmtree(leftover, ignore_errors=True)
    _flush(path.parent)


def write_text(path: Path, text: str) -> None:
    """Replace `path` with `text`, in UTF-8 with plain newlines on every platform."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def with_file_name(path: Path) -> Iterator[None]:
    """Add the path to an `OSError` that lacks one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            error.filename = str(path)
        raise


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hex.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def printable(path: Path | str) -> str:
    """Return a path as one printable line, whatever its name contains."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in str(path))


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot flush a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_table(path: Path, columns: Mapping[str, Iterable[object]], *, decimals: int | None = None) -> None:
    """Write a CSV with a header, the same bytes on every platform. NaN becomes an empty cell.

    Args:
        path: of the file.
        columns: name -> values, the same number in each.
        decimals: of floating-point numbers; None: as many as it takes to read the same number back.
    """

    def text(value: object) -> object:
        if isinstance(value, float) and math.isnan(value):
            return ""
        return f"{value:.{decimals}f}" if decimals is not None and isinstance(value, float) else value

    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        # Before Python 3.13 csv quotes a carriage return (in a file name, say) only if its lines end in one.
        lines = SimpleNamespace(write=lambda line: file.write(line.removesuffix("\r\n") + "\n"))
        writer = csv.writer(lines, lineterminator="\r\n")
        writer.writerow(columns)
        writer.writerows([text(value) for value in row] for row in zip(*columns.values(), strict=True))
