"""Unpack untrusted zip, tar and gzip files.

Only regular files and folders are unpacked, under names inside the target folder, and no more of them, in number and
bytes, than the caller allows. The checksums of the format are checked before the caller reads any unpacked byte.
"""

import bz2
import errno
import gzip
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import IO, Any

from stages.lib.core.errors import reason
from stages.lib.core.files import with_file_name

COMPRESSED_TARS: dict[str, Callable[[Path], Any]] = {
    **dict.fromkeys((".tar.gz", ".tgz"), gzip.open),
    **dict.fromkeys((".tar.bz2", ".tbz2", ".tbz"), bz2.open),
    **dict.fromkeys((".tar.xz", ".txz"), lzma.open),
}
ARCHIVES = (".zip", ".tar", *COMPRESSED_TARS)
CHUNK = 1 << 20  # bytes
HEADERS = 10_240  # bytes of a tar per file that are not content
BAD_NAME = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}
DRIVE = re.compile("[A-Za-z]:/")  # of an absolute path on Windows
FORBIDDEN = set("\0:" if os.name == "nt" else "\0")  # in names
# What these modules raise on damaged bytes, and zipfile on an unknown compression or encryption.
DAMAGED = (
    *(gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(ValueError, EOFError, LookupError, OverflowError, RuntimeError),
)


class ArchiveError(ValueError):
    """An archive that cannot be unpacked; the message is one line."""


def unpack(archive: Path, folder: Path, *, most_bytes: int, most_files: int = 1) -> None:
    """Unpack into an existing folder: an archive with an ending of ARCHIVES to its files, name.gz to the file `name`.

    Raises:
        ArchiveError: the archive is damaged, of another format or larger than the limits, or has an entry that is a
            link or a device, or lies outside of the folder, or has a name that is no UTF-8.
        OSError: the folder cannot be written.
    """
    try:
        match ending_of(archive.name):
            case ".zip":
                _unpack_zip(archive, folder, most_bytes, most_files)
            case ".tar":
                _unpack_tar(archive, folder, most_bytes, most_files)
            case "":
                _decompress(gzip.open, archive, folder / archive.stem, most_bytes)
            case ending:
                # To a plain tar first: tarfile neither checks gzip's checksum nor limits the length of a name.
                plain = folder / ".unpacked.tar.tmp"
                try:
                    _decompress(COMPRESSED_TARS[ending], archive, plain, most_bytes + HEADERS * (most_files + 1))
                    _unpack_tar(plain, folder, most_bytes, most_files)
                finally:
                    plain.unlink(missing_ok=True)
    except ArchiveError as error:
        raise ArchiveError(f"{archive.name}: {error}") from error
    except DAMAGED as error:
        raise ArchiveError(f"{archive.name}: cannot be unpacked ({reason(error)})") from error
    except OSError as error:
        # bz2 reports damage as an OSError without a number.
        if error.errno is not None and error.errno not in BAD_NAME:
            raise
        what = "cannot be unpacked" if error.errno is None else "a file cannot have such a name"
        raise ArchiveError(f"{archive.name}: {what} ({reason(error)})") from error


def ending_of(name: str) -> str:
    """Return the ending of an archive's name in lower case, or an empty text if it is not one of ARCHIVES."""
    return next((ending for ending in ARCHIVES if name.lower().endswith(ending)), "")


def _decompress(opened: Callable[[Path], Any], archive: Path, target: Path, most_bytes: int) -> None:
    with opened(archive) as source:
        _copy(source, target, most_bytes)


def _unpack_tar(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    with tarfile.open(archive, "r:") as tar:
        left = most_bytes
        for number, member in enumerate(tar, start=1):
            name = _checked(member.name, number, most_files, member.isfile() or member.isdir())
            left -= member.size
            if left < 0:
                raise ArchiveError(f"`{name}` is larger than expected")
            # Not by tar.extract, whose filter for untrusted archives is missing before Python 3.11.4.
            with tar.extractfile(member) or nullcontext() as source:
                _put(folder / name, source, member.size)


def _unpack_zip(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    with zipfile.ZipFile(archive) as zipped:
        left = most_bytes
        for number, member in enumerate(zipped.infolist(), start=1):
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive has no Unix modes
            name = _checked(member.filename, number, most_files, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            with nullcontext() if name.endswith("/") else zipped.open(member) as source:
                left -= _put(folder / name, source, left)


def _checked(name: str, number: int, most_files: int, is_regular: bool) -> str:
    """Return the name of an entry with slashes; programs on Windows write backslashes."""
    if number > most_files:
        raise ArchiveError(f"more than {most_files:,} files")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise ArchiveError(f"the name {name!a} is not UTF-8, which DVC needs; rename the file") from error
    if not is_regular:
        raise ArchiveError(f"`{name}` is a link or a device")
    path = name.replace("\\", "/")
    if not path or PurePosixPath(path).is_absolute() or ".." in path.split("/") or DRIVE.match(path):
        raise ArchiveError(f"`{name}` lies outside of the archive's folder")
    if forbidden := FORBIDDEN & set(path):
        raise ArchiveError(f"`{name}` has {forbidden.pop()!r} in its name, which cannot be in that of a file")
    return path


def _put(target: Path, source: IO[bytes] | None, most_bytes: int) -> int:
    """Write a file with the content of the source, or make a folder if there is none. Returns the bytes written."""
    (target.parent if source else target).mkdir(parents=True, exist_ok=True)
    return _copy(source, target, most_bytes) if source else 0


def _copy(source: IO[bytes] | gzip.GzipFile, target: Path, most_bytes: int) -> int:
    written = 0
    with with_file_name(target), target.open("wb") as file:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            if written > most_bytes:
                raise ArchiveError(f"`{target.name}` is larger than expected")
            file.write(chunk)
    return written
