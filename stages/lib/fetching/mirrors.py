"""Fetching one file of known checksum from the first mirror that has it.

The bytes grow in a `.part` file that outlives an interruption: the next run asks the mirror for the rest (HTTP `Range`)
and starts again where the mirror does not know how. Only a file whose checksum is right leaves this module. A mirror
that is down, silent, too slow, or serves something else is noted, and the next one is asked.
"""

import hashlib
import http.client
import io
import os
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tqdm import tqdm

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import with_file_name

CHUNK = 1 << 16  # bytes
PATIENCE = 20.0  # seconds: without a byte, or below SLOWEST on average, a mirror is given up
SLOWEST = 2000.0  # bytes a second
LARGEST = 1 << 26  # bytes of a file whose size is not on record


@dataclass(frozen=True)
class RemoteFile:
    """A file to fetch: its name, its md5 (hex), its size and its addresses, in the order in which to try them."""

    name: str
    md5: str
    size: int | None  # bytes; None: not on record
    addresses: tuple[str, ...]  # http(s) addresses, or paths and file:// addresses of local files


class MirrorError(Exception):
    """What a mirror answered instead of the file."""


def fetch(file: RemoteFile, folder: Path, *, patience: float = PATIENCE) -> Path:
    """Put the file into `folder` and return its path; one that is there already, with the right md5, is kept.

    Raises:
        UserError: no address gave it; the text names each one, what it answered and `DATASET_MIRROR`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.exists() and _md5(path) == file.md5:
        return path
    answers = []
    for address in file.addresses:
        try:
            # A part from an earlier run may be of other bytes: where it does not lead to the right md5, start afresh.
            if not (part.exists() and _attempt(address, part, file.size, patience) == file.md5):
                part.unlink(missing_ok=True)
                found = _attempt(address, part, file.size, patience)
                if found != file.md5:
                    answer = f"{_kind(part)} with md5 {found}, expected {file.md5}"
                    part.unlink()
                    raise MirrorError(answer)
            part.replace(path)
            return path
        except MirrorError as error:
            answers.append(f"{address}: {error}")
            if len(answers) < len(file.addresses):
                print(f"{address}: {error}; asking the next mirror", file=sys.stderr)
    raise UserError(
        f"no mirror gave {file.name}: {'; '.join(answers)}. "
        "Set DATASET_MIRROR to an http(s) address or a folder that holds it, or try again later"
    )


def _attempt(address: str, part: Path, size: int | None, patience: float) -> str:
    """Bring `part` to its end from one address, going on from what it holds; the md5 of the whole.

    Raises:
        MirrorError: the address did not give a whole file; what did arrive stays in `part`.
    """
    have = part.stat().st_size if part.exists() else 0
    source, goes_on, total = _open(address, have, patience)
    with source, with_file_name(part), part.open("ab" if goes_on else "wb") as target:
        _copy(source, target, total, size, patience)
    return _md5(part)


def _open(address: str, have: int, patience: float) -> tuple[IO[bytes], bool, int | None]:
    """The stream of an address, whether it starts behind the `have` bytes, and its length where known."""
    try:
        if urllib.parse.urlsplit(address).scheme not in ("http", "https"):
            source = open(address.removeprefix("file://"), "rb")  # noqa: SIM115 (the caller closes it)
            return source, False, os.fstat(source.fileno()).st_size
        request = urllib.request.Request(address, headers={"Range": f"bytes={have}-"} if have else {})
        answer = urllib.request.urlopen(request, timeout=patience)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return io.BytesIO(), True, 0  # nothing is missing, or the part is of another file: the md5 will tell
        raise MirrorError(" ".join(f"HTTP {error.code} {error.reason}".split())) from error
    except FileNotFoundError as error:
        folder = Path(address.removeprefix("file://")).parent.is_dir()
        no_folder = "no such folder; an address begins with http:// or https://"
        raise MirrorError(_why(error) if folder else no_folder) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MirrorError(_why(error)) from error
    length = answer.headers.get("Content-Length", "")
    return answer, answer.status == http.HTTPStatus.PARTIAL_CONTENT, int(length) if length.isdecimal() else None


def _copy(source: IO[bytes], target: IO[bytes], total: int | None, size: int | None, patience: float) -> None:
    """Copy to the end; an error of the source is the mirror's, one of the target is our own disk's."""
    name = Path(target.name).name.removesuffix(".part")
    received, in_window, window = 0, 0, time.monotonic()
    with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=None) as bar:
        while True:
            try:
                chunk = source.read1(CHUNK)  # type: ignore[attr-defined]  # what has arrived, not a full chunk
            except (OSError, http.client.HTTPException) as error:
                raise MirrorError(f"{_why(error)} after {received:,} bytes") from error
            if not chunk:
                break
            if target.tell() + len(chunk) > (size or LARGEST):
                raise MirrorError(f"more than {size or LARGEST:,} bytes")
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


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        page = file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
    return f"{'an HTML page' if page else 'a file'} of {path.stat().st_size:,} bytes"


def _why(error: Exception) -> str:
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        return _why(error.reason)
    return "no answer in time" if isinstance(error, TimeoutError) else reason(error)
