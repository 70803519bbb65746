"""The user's files in a bucket of S3, or of a server that speaks its protocol: `source: s3://bucket/folder`.

An object is listed with its ETag, which the server changes with its content, and read on condition that it still has
it (`If-Match`), so never with another content than the one that was listed. s3fs finds credentials and the address of
another server (`AWS_ENDPOINT_URL`) where Amazon's own tools do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from stages.lib.core.errors import UserError, reason

SCHEME = "s3://"
AT_A_TIME = 32  # objects that are requested at the same time: an answer takes longer than its transfer
CHANGED = "PreconditionFailed"  # the answer to `If-Match` with another ETag

T = TypeVar("T")


class Object(NamedTuple):
    """An object as it is listed."""

    etag: str
    size: int  # bytes


def is_bucket(source: str) -> bool:
    """Return whether a source is in a bucket."""
    return source.startswith(SCHEME)


def list_objects(address: str) -> dict[str, Object]:
    """Return the objects below an address by their paths, sorted; those that stand for a folder are left out.

    Raises:
        UserError: they cannot be listed, or a path could not be that of a file.
    """
    base = address.removeprefix(SCHEME).strip("/")
    found: dict[str, Any] = _asked(address, lambda: _filesystem().find(base, detail=True))
    objects = {
        path.removeprefix(base).lstrip("/"): Object(entry["ETag"].strip('"'), entry["size"])
        for path, entry in found.items()
        if entry["type"] == "file" and not path.endswith("/")
    }
    for name in objects:
        if {"", ".", ".."} & set(name.split("/")):
            raise UserError(f"{address}: found the object {name!r}, whose name cannot be that of a file; rename it")
    return dict(sorted(objects.items()))


def fetch_object(address: str, path: Path) -> None:
    """Copy one object to a file.

    Raises:
        UserError: it cannot be read, or changes meanwhile.
    """
    key = address.removeprefix(SCHEME)
    before = _asked(address, lambda: _filesystem().info(key, refresh=True)["ETag"])
    _asked(address, lambda: _filesystem().get_file(key, str(path)))
    if _asked(address, lambda: _filesystem().info(key, refresh=True)["ETag"]) != before:
        raise UserError(f"{address}: changed while it was copied; run it again")


@dataclass
class BucketReader:
    """Reads objects: name -> bytes. It can be sent to another process."""

    address: str
    etags: Mapping[str, str]  # of the objects, in the order in which they will be read
    _fetched: dict[str, bytes | BaseException] = field(default_factory=dict)
    _order: list[str] = field(default_factory=list)
    _row: dict[str, int] = field(default_factory=dict)

    def __call__(self, name: str) -> bytes:
        """Return the content of an object; those that come next are requested at the same time.

        Raises:
            UserError: it has changed since it was listed, or is not there any more, or the server cannot be reached, or
                refuses.
        """
        if name not in self._fetched:
            if not self._order:
                self._order = list(self.etags)
                self._row = {each: row for row, each in enumerate(self._order)}
            first = self._row[name]
            self._fetched = self._fetch(self._order[first : first + AT_A_TIME])
        content = self._fetched.pop(name)
        if isinstance(content, BaseException):
            if not isinstance(content, Exception):
                raise content
            is_gone = isinstance(content, FileNotFoundError)
            if is_gone or CHANGED in str(content) or "pre-conditions" in str(content):
                what = "is not there any more" if is_gone else "has changed since it was listed"
                raise UserError(
                    f"{self.address}/{name}: {what}; run `dvc repro`, which lists the source first"
                ) from content
            raise _refused(f"{self.address}/{name}", content) from content
        return content

    def _fetch(self, names: Sequence[str]) -> dict[str, bytes | BaseException]:
        filesystem = _filesystem()
        bucket, _, folder = self.address.removeprefix(SCHEME).strip("/").partition("/")

        async def content(name: str) -> bytes:
            key = f"{folder}/{name}" if folder else name

            async def whole() -> bytes:
                answer = await filesystem._call_s3("get_object", Bucket=bucket, Key=key, IfMatch=self.etags[name])
                async with answer["Body"] as body:
                    read: bytes = await body.read()
                return read

            # s3fs does the same in `cat_file`, which has no If-Match: a connection may break while the body is read.
            return await _error_wrapper(whole, retries=filesystem.retries)  # type: ignore[no-any-return]

        async def contents() -> list[bytes | BaseException]:
            return await asyncio.gather(*map(content, names), return_exceptions=True)

        import asyncio  # like the next two, only if there is a bucket

        from fsspec.asyn import sync
        from s3fs.core import _error_wrapper

        results = _asked(self.address, lambda: sync(filesystem.loop, contents))
        return dict(zip(names, results, strict=True))


def _filesystem() -> Any:
    """Return the one of this process: s3fs keeps it, with its connections."""
    from s3fs import S3FileSystem

    return S3FileSystem(use_listings_cache=False)


def _asked(address: str, ask: Callable[[], T]) -> T:
    """Return the answer of the server.

    Raises:
        UserError: there is none, or the package for it is not installed.
    """
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise UserError(f"{address}: needs one more package; run `pip install dvc-s3`") from error
    try:
        return ask()
    except (OSError, BotoCoreError) as error:
        raise _refused(address, error) from error


def _refused(address: str, error: Exception) -> UserError:
    return UserError(
        f"{address}: the server gives no answer, or refuses ({reason(error)}); check the address, the credentials and, "
        "for a server that is not Amazon's, AWS_ENDPOINT_URL, here and on each machine that reads images"
    )
