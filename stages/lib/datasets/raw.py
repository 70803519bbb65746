"""The folder data/raw/: what download writes and normalize reads.

files/          the original files
dataset.json    sealed: the data set's name, the sha256 of every file, and where they are: in files/, or, if they are
                too large to copy, where the user keeps them: in `source` of params.yaml, or in DATASET_MIRROR
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_text
from stages.lib.core.sealed import seal, unseal

MANIFEST = "dataset.json"
FILES = "files"
MIRROR = "DATASET_MIRROR"  # the name of the variable: the place may be another one on each machine


def mirror() -> str | None:
    """Where files of data sets are looked for first: an address or a folder."""
    return os.environ.get("DATASET_MIRROR")


@dataclass(frozen=True)
class Raw:
    """The original files of a data set."""

    dataset: str
    root: Path
    sha256: dict[str, str]  # path below root, with slashes -> hex

    def check(self) -> None:
        """Read every file once.

        Raises:
            ValueError: one of them is not what download saw.
            OSError: one of them cannot be read.
        """
        for name, expected in self.sha256.items():
            with (self.root / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise ValueError(f"{name} has changed since it was downloaded")

    def content(self, name: str) -> bytes:
        """The bytes of one file.

        Raises:
            ValueError: they are not those that download saw.
            OSError: the file cannot be read.
        """
        content = (self.root / name).read_bytes()
        if hashlib.sha256(content).hexdigest() != self.sha256[name]:
            raise ValueError(f"{name} has changed since it was downloaded")
        return content


def write_manifest(folder: Path, dataset: str, names: Sequence[str], root: Path, recorded_root: str) -> None:
    """Write dataset.json, last: it vouches for the files.

    Args:
        folder: what is to become data/raw/.
        dataset: the name of the data set.
        names: of the files below their root, in the order in which they count.
        root: where they are now.
        recorded_root: where they will be: FILES, MIRROR, or the user's own folder as params.yaml has it.
    """
    sha256 = {}
    for name in names:
        with (root / name).open("rb") as file:
            sha256[name] = hashlib.file_digest(file, "sha256").hexdigest()
    write_text(folder / MANIFEST, seal({"dataset": dataset, "root": recorded_root, "files": sha256}))


def read_manifest(folder: Path) -> Raw:
    """What is in data/raw/.

    Raises:
        UserError: the folder is not there, or is not what download wrote.
    """
    path = folder / MANIFEST
    try:
        fields = unseal(path.read_bytes())
        places = {FILES: folder / FILES, MIRROR: Path(mirror() or "")}
        return Raw(fields["dataset"], places.get(fields["root"], Path(fields["root"])), fields["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: missing or damaged ({reason(error)}); run `dvc repro`, which downloads first"
        ) from error
