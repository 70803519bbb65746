"""Unpacking gzip, tar and zip files, none of which is trusted.

Only regular files and folders come out, under names inside the target folder, and no more of them, in number and in
bytes, than the caller expects. The checksums of the format are checked before anyone reads a byte of what came out.
"""

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO

from stages.lib.files import named
from stages.lib.stage import reason

CHUNK = 1 << 20  # bytes
# What the modules raise on damaged bytes, and zipfile on a compression or encryption that it does not know.
DAMAGED = (
    *(gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error),
    *(ValueError, EOFError, LookupError, OverflowError, RuntimeError),
)


class ArchiveError(ValueError):
    """What is wrong with an archive, on one line."""


def unpack(archive: Path, folder: Path, *, most_bytes: int, most_files: int = 1) -> None:
    """Unpack into an existing folder: name.gz to one file `name`, name.zip and tars (name.tar, name.tar.gz) to theirs.

    Raises:
        ArchiveError: damaged, of another format, larger than the limits, or with an entry that is a link, a device, or
            lies outside of the folder.
        OSError: the folder cannot be written to.
    """
    try:
        if archive.suffix == ".zip":
            _unpack_zip(archive, folder, most_bytes, most_files)
        elif archive.suffix == ".gz" and not archive.name.endswith(".tar.gz"):
            with gzip.open(archive) as source:
                _copy(source, folder / archive.stem, most_bytes)
        else:
            _unpack_tar(archive, folder, most_bytes, most_files)
    except ArchiveError:
        raise
    except DAMAGED as error:
        raise ArchiveError(f"{archive.name}: cannot be unpacked ({reason(error)})") from error


def _unpack_tar(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    with tarfile.open(archive) as tar:
        left = most_bytes
        for number, member in enumerate(tar, start=1):
            _check(archive, member.name, number, most_files, member.isfile() or member.isdir())
            left -= member.size
            if left < 0:
                raise ArchiveError(f"{member.name}: more bytes than were expected")
            with named(folder):
                tar.extract(member, folder, set_attrs=False, filter="data")


def _unpack_zip(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    with zipfile.ZipFile(archive) as zipped:
        left = most_bytes
        for number, member in enumerate(zipped.infolist(), start=1):
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive says nothing of Unix modes
            _check(archive, member.filename, number, most_files, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            target = folder / member.filename
            if member.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                with zipped.open(member) as source:
                    left -= _copy(source, target, left)


def _check(archive: Path, name: str, number: int, most_files: int, plain: bool) -> None:
    if number > most_files:
        raise ArchiveError(f"{archive.name}: more than {most_files:,} files")
    if not plain:
        raise ArchiveError(f"{archive.name}: `{name}` is a link or a device")
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name or "\0" in name:
        raise ArchiveError(f"{archive.name}: `{name}` lies outside of the archive's folder")


def _copy(source: IO[bytes] | gzip.GzipFile, target: Path, most_bytes: int) -> int:
    written = 0
    with named(target), target.open("wb") as file:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > most_bytes:
                raise ArchiveError(f"{target.name}: more bytes than were expected")
            file.write(chunk)
    return written
