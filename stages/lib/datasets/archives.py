"""Unpack untrusted gzip, tar and zip files.

Only regular files and folders are unpacked, under names inside the target folder, and no more of them, in number and
bytes, than the caller allows. The checksums of the format are checked before the caller reads any unpacked byte.
"""

import errno
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import IO

from stages.lib.core.errors import reason
from stages.lib.core.files import with_file_name

CHUNK = 1 << 20  # bytes
HEADERS = 10_240  # bytes of a tar per file that are not content
BAD_NAME = {errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL}
FORBIDDEN = set("\\:\0")  # in a name: backslash and colon lead out of the folder on Windows
# What these modules raise on damaged bytes, and zipfile on an unknown compression or encryption.
DAMAGED = (
    *(gzip.BadGzipFile, tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(ValueError, EOFError, LookupError, OverflowError, RuntimeError),
)


class ArchiveError(ValueError):
    """An archive that cannot be unpacked; the message is one line."""


def unpack(archive: Path, folder: Path, *, most_bytes: int, most_files: int = 1) -> None:
    """Unpack into an existing folder: name.gz to the file `name`; name.zip, name.tar and name.tar.gz to their files.

    Raises:
        ArchiveError: the archive is damaged, of another format or larger than the limits, or has an entry that is a
            link or a device, or lies outside of the folder.
        OSError: the folder cannot be written.
    """
    try:
        if archive.suffix == ".zip":
            _unpack_zip(archive, folder, most_bytes, most_files)
        elif archive.suffix == ".tar":
            _unpack_tar(archive, folder, most_bytes, most_files)
        elif archive.name.endswith(".tar.gz"):
            # To a plain tar first: tarfile neither checks gzip's checksum nor limits the length of a name.
            plain = folder / ".unpacked.tar.tmp"
            try:
                _gunzip(archive, plain, most_bytes + HEADERS * (most_files + 1))
                _unpack_tar(plain, folder, most_bytes, most_files)
            finally:
                plain.unlink(missing_ok=True)
        else:
            _gunzip(archive, folder / archive.stem, most_bytes)
    except ArchiveError as error:
        raise ArchiveError(f"{archive.name}: {error}") from error
    except DAMAGED as error:
        raise ArchiveError(f"{archive.name}: cannot be unpacked ({reason(error)})") from error
    except OSError as error:
        if error.errno not in BAD_NAME:
            raise
        raise ArchiveError(f"{archive.name}: a file cannot have such a name ({reason(error)})") from error


def _gunzip(archive: Path, target: Path, most_bytes: int) -> None:
    with gzip.open(archive) as source:
        _copy(source, target, most_bytes)


def _unpack_tar(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    with tarfile.open(archive, "r:") as tar:
        left = most_bytes
        for number, member in enumerate(tar, start=1):
            _check(member.name, number, most_files, member.isfile() or member.isdir())
            left -= member.size
            if left < 0:
                raise ArchiveError(f"`{member.name}` is larger than expected")
            # Not by tar.extract, whose filter for untrusted archives is missing before Python 3.11.4.
            with tar.extractfile(member) or nullcontext() as source:
                _put(folder / member.name, source, member.size)


def _unpack_zip(archive: Path, folder: Path, most_bytes: int, most_files: int) -> None:
    with zipfile.ZipFile(archive) as zipped:
        left = most_bytes
        for number, member in enumerate(zipped.infolist(), start=1):
            kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive has no Unix modes
            _check(member.filename, number, most_files, kind in (0, stat.S_IFREG, stat.S_IFDIR))
            with nullcontext() if member.is_dir() else zipped.open(member) as source:
                left -= _put(folder / member.filename, source, left)


def _check(name: str, number: int, most_files: int, is_regular: bool) -> None:
    if number > most_files:
        raise ArchiveError(f"more than {most_files:,} files")
    if not is_regular:
        raise ArchiveError(f"`{name}` is a link or a device")
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or set(name) & FORBIDDEN:
        raise ArchiveError(f"`{name}` lies outside of the archive's folder")


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
