"""The folder data/raw/dataset/: download writes it, normalize reads it.

files/          the original files
dataset.json    sealed: the name of the data set, the sha256 of each file, and where the files are: in files/, or, if
                they are too large to copy, where the user keeps them: in params.yaml's `source`, or in DATASET_MIRROR
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import sha256_of, write_text
from stages.lib.core.sealed import seal, unseal

MANIFEST = "dataset.json"
FILES = "files"
MIRROR = "DATASET_MIRROR"  # recorded by name, because the folder may be another one on each machine


def mirror() -> str | None:
    """Return the address or folder to try before all other mirrors, if the user has set one."""
    return os.environ.get(MIRROR)


class OriginalFiles(NamedTuple):
    """The files of a data set and where they are."""

    names: list[str]  # paths below `root`, with slashes, in the order in which dataset.json lists them
    root: Path  # the folder that holds them now
    recorded_root: str  # the folder that dataset.json records: FILES, MIRROR, or params.yaml's `source`


@dataclass(frozen=True)
class Raw:
    """The original files, as dataset.json describes them."""

    dataset: str
    root: Path
    sha256: dict[str, str]  # path below root, with slashes -> hex

    def check(self) -> None:
        """Compare each file with its checksum.

        Raises:
            ValueError: a file has changed since it was downloaded.
            OSError: a file cannot be read.
        """
        for name, expected in self.sha256.items():
            if sha256_of(self.root / name) != expected:
                raise ValueError(f"{name} has changed since it was downloaded")

    def content(self, name: str) -> bytes:
        """Return the bytes of a file.

        Raises:
            ValueError: the file has changed since it was downloaded.
            OSError: the file cannot be read.
        """
        content = (self.root / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256[name]:
            raise ValueError(f"{name} has changed since it was downloaded")
        return content


def write_manifest(folder: Path, dataset: str, files: OriginalFiles) -> None:
    """Write dataset.json into `folder`, which becomes data/raw/dataset/. It comes last: it vouches for the files."""
    sha256 = {name: sha256_of(files.root / name) for name in files.names}
    write_text(folder / MANIFEST, seal({"dataset": dataset, "root": files.recorded_root, "files": sha256}))


def read_manifest(folder: Path) -> Raw:
    """Return the files that dataset.json describes.

    Raises:
        UserError: dataset.json is missing, or is not what download wrote.
    """
    path = folder / MANIFEST
    try:
        fields = unseal(path.read_bytes())
        roots = {FILES: folder / FILES, MIRROR: Path(mirror() or "")}
        return Raw(fields["dataset"], roots.get(fields["root"], Path(fields["root"])), fields["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: missing or damaged ({reason(error)}); run `dvc repro`, which downloads first"
        ) from error
