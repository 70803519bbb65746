"""Fetch a file of known checksum from the first mirror that has it.

The bytes go to a `.part` file that survives an interruption: the next run asks the mirror for the rest (HTTP `Range`),
and starts again if the mirror does not support that. Only a file with the right checksum leaves this module. A mirror
that is down, silent, too slow, or serves something else is reported, and the next one is tried.

Why own code: torchvision's downloader and pooch neither resume a file nor give up a mirror that is silent or slow.
"""

import http.client
import io
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import with_file_name
from stages.lib.datasets.published import md5_of
from stages.lib.datasets.raw import MIRROR

CHUNK = 1 << 16  # bytes
PATIENCE = 20.0  # seconds without a byte, or below SLOWEST on average, after which a mirror is given up
SLOWEST = 2000.0  # bytes per second
LARGEST = 1 << 26  # bytes, of a file whose size is not known


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch."""

    name: str
    md5: str  # hex
    size: int | None  # bytes; None: not known
    addresses: tuple[str, ...]  # in the order in which to try them: http(s), or paths and file:// of local files


class MirrorError(Exception):
    """Why a mirror did not give the file."""


class TooLongError(MirrorError):
    """It sent more than the file has."""


def fetch(file: RemoteFile, folder: Path, *, patience: float = PATIENCE) -> Path:
    """Put the file into `folder` and return its path; keep a file that is there already and has the right md5.

    Raises:
        UserError: no address gave the file; the message names each of them and its answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.exists() and md5_of(path) == file.md5:
        return path
    answers = []
    for address in file.addresses:
        try:
            # A part may be of other bytes, or the mirror may send the file from its beginning: if both together do not
            # have the right md5, start again.
            md5 = ""
            if part.exists():
                with suppress(TooLongError):
                    md5 = _attempt(address, part, file.size, patience)
            if md5 != file.md5:
                part.unlink(missing_ok=True)
                md5 = _attempt(address, part, file.size, patience)
                if md5 != file.md5:
                    answer = f"{_kind(part)} with md5 {md5}, expected {file.md5}"
                    part.unlink()
                    raise MirrorError(answer)
            part.replace(path)
            return path
        except MirrorError as error:
            answers.append(f"{address}: {error}")
            if len(answers) < len(file.addresses):
                print(f"{address}: {error}; trying the next mirror", file=sys.stderr)
    raise UserError(
        f"no mirror gave {file.name}: {'; '.join(answers)}. "
        f"Set {MIRROR} to an http(s) address or a folder that holds it, or try again later"
    )


def _attempt(address: str, part: Path, size: int | None, patience: float) -> str:
    """Complete `part` from one address, resuming after what it holds, and return the md5 of the whole.

    Raises:
        MirrorError: the address did not give a whole file; what has arrived stays in `part`.
    """
    start = part.stat().st_size if part.exists() else 0
    source, resumes, total = _open(address, start, patience)
    with source, with_file_name(part), part.open("ab" if resumes else "wb") as target:
        _copy(source, target, total, size, patience)
    return md5_of(part)


def _open(address: str, start: int, patience: float) -> tuple[IO[bytes], bool, int | None]:
    """Return the stream of an address, whether it begins at byte `start` and not at 0, and its length if known."""
    try:
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            source = open(address.removeprefix("file://"), "rb")  # noqa: SIM115 (the caller closes it)
            return source, False, os.fstat(source.fileno()).st_size
        request = urllib.request.Request(address, headers={"Range": f"bytes={start}-"} if start else {})
        answer = urllib.request.urlopen(request, timeout=patience)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return io.BytesIO(), True, 0  # nothing is missing, or the part is of another file: md5 decides
        raise MirrorError(" ".join(f"HTTP {error.code} {error.reason}".split())) from error
    except FileNotFoundError as error:
        has_folder = Path(address.removeprefix("file://")).parent.is_dir()
        no_folder = "no such folder; an address begins with http:// or https://"
        raise MirrorError(_reason(error) if has_folder else no_folder) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MirrorError(_reason(error)) from error
    length = answer.headers.get("Content-Length", "")
    return answer, answer.status == http.HTTPStatus.PARTIAL_CONTENT, int(length) if length.isdecimal() else None


def _copy(source: IO[bytes], target: IO[bytes], total: int | None, size: int | None, patience: float) -> None:
    """Copy to the end of the stream.

    Raises:
        MirrorError: the mirror fails, is too slow, or sends too much.
        OSError: the target cannot be written.
    """
    name = Path(target.name).name.removesuffix(".part")
    received, in_window, window = 0, 0, time.monotonic()
    with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None) as bar:
        while True:
            try:
                chunk = source.read1(CHUNK)  # type: ignore[attr-defined]  # returns what has arrived, not a full chunk
            except (OSError, http.client.HTTPException) as error:
                raise MirrorError(f"{_reason(error)} after {received:,} bytes") from error
            if not chunk:
                break
            if target.tell() + len(chunk) > (size or LARGEST):
                raise TooLongError(f"more than {size or LARGEST:,} bytes")
            target.write(chunk)
            received, in_window = received + len(chunk), in_window + len(chunk)
            bar.update(len(chunk))
            elapsed = time.monotonic() - window
            if elapsed > patience:
                if in_window / elapsed < SLOWEST:
                    raise MirrorError(f"too slow: {in_window:,} bytes in {elapsed:.0f} s")
                in_window, window = 0, time.monotonic()
    if total is not None and received < total:
        raise MirrorError(f"broke off after {received:,} of {total:,} bytes")


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        is_html = file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    return f"{'an HTML page' if is_html else 'a file'} of {path.stat().st_size:,} bytes"


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _reason(error.reason)
    return "no answer in time" if isinstance(error, TimeoutError) else reason(error)
