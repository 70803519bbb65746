"""The folder data/raw/dataset/: download writes it, normalize reads it.

files/          the original files
dataset.json    sealed: the name of the data set, the sha256 of each file, and where the files are: in files/, or, if
                they are too large to copy, where the user keeps them: in params.yaml's `source`, or in DATASET_MIRROR.
                Of files that stay in a bucket it has the ETags in place of the sha256.
"""

import hashlib
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, NamedTuple

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import sha256_of, write_text
from stages.lib.core.sealed import seal, unseal
from stages.lib.datasets.bucket import BucketReader, Object, is_bucket

MANIFEST = "dataset.json"
FILES = "files"
MIRROR = "DATASET_MIRROR"  # recorded by name, because the folder may be another one on each machine


def mirror() -> str | None:
    """Return the address or folder to try before all other mirrors, if the user has set one."""
    return os.environ.get(MIRROR)


class OriginalFiles(NamedTuple):
    """The files of a data set and where they are."""

    names: list[str]  # paths below `root`, with slashes, in the order in which dataset.json lists them
    root: Path  # the folder that holds them now; not used of a bucket
    recorded_root: str  # the folder that dataset.json records: FILES, MIRROR, or params.yaml's `source`
    objects: Mapping[str, Object] = MappingProxyType({})  # by name, if they stay in a bucket

    def size(self) -> int:
        """Return the bytes of all files."""
        if self.objects:
            return sum(each.size for each in self.objects.values())
        return sum((self.root / name).stat().st_size for name in self.names)


@dataclass(frozen=True)
class Raw:
    """The original files, as dataset.json describes them."""

    dataset: str
    root: Path  # the folder that holds them; not used if they are in a bucket
    checksums: dict[str, str]  # path below root, with slashes -> sha256 in hex, or ETag
    address: str = ""  # of the folder in a bucket that holds them

    def check(self) -> None:
        """Compare each file with its checksum.

        Raises:
            ValueError: a file has changed since it was downloaded.
            OSError: a file cannot be read.
        """
        for name, expected in self.checksums.items():
            if sha256_of(self.root / name) != expected:
                raise ValueError(f"{name} has changed since it was downloaded")

    def reader(self, names: Sequence[str]) -> Callable[[str], bytes]:
        """Return what reads these files: name -> bytes.

        It raises UserError if a file has changed since it was downloaded, or cannot be read: `unreadable_allowed` is
        for images alone. It can be sent to another process: it holds the checksums of these files only. Of a bucket, it
        requests the files that come next at the same time.
        """
        checksums = {name: self.checksums[name] for name in names}
        return BucketReader(self.address, checksums) if self.address else partial(_checked, self.root, checksums)

    def open(self, name: str) -> IO[bytes]:
        """Open a file, which may have changed.

        Raises:
            OSError: it cannot be opened.
        """
        return io.BytesIO(self.reader([name])(name)) if self.address else (self.root / name).open("rb")


def _checked(root: Path, sha256: Mapping[str, str], name: str) -> bytes:
    try:
        content = (root / name).read_bytes()
    except OSError as error:
        raise UserError(
            f"{root / name}: cannot be read any more ({reason(error)}); put it back, or run `dvc repro`, which looks "
            "at the source first"
        ) from error
    if hashlib.sha256(content).hexdigest() != sha256[name]:
        raise UserError(
            f"{root / name}: has changed since it was downloaded; run `dvc repro`, which looks at the source first"
        )
    return content


def write_manifest(folder: Path, dataset: str, files: OriginalFiles) -> None:
    """Write dataset.json into `folder`, which becomes data/raw/dataset/. It comes last: it vouches for the files."""
    if files.objects:
        checksums = {name: files.objects[name].etag for name in files.names}
    else:
        checksums = {name: sha256_of(files.root / name) for name in files.names}
    write_text(folder / MANIFEST, seal({"dataset": dataset, "root": files.recorded_root, "files": checksums}))


def read_manifest(folder: Path) -> Raw:
    """Return the files that dataset.json describes.

    Raises:
        UserError: dataset.json is missing, or is not what download wrote.
    """
    path = folder / MANIFEST
    try:
        fields = unseal(path.read_bytes())
        roots = {FILES: folder / FILES, MIRROR: Path(mirror() or "")}
        recorded = fields["root"]
        address = recorded if is_bucket(recorded) else ""
        return Raw(fields["dataset"], roots.get(recorded, Path(recorded)), fields["files"], address)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: missing or damaged ({reason(error)}); run `dvc repro`, which downloads first"
        ) from error
