"""Kind: files that a class of `torchvision.datasets` reads into arrays of images, such as CIFAR-10's."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from stages.lib.datasets.archives import unpack
from stages.lib.datasets.kind import CLASSIFICATION, Contents, Download, File, Part, Reading
from stages.lib.datasets.published import MOST_FILES, checked, damage_refused, fetch_files
from stages.lib.datasets.raw import OriginalFiles, Raw


@dataclass(frozen=True)
class TorchvisionArrays:
    """A class of `torchvision.datasets` with `data` and with `targets` or `labels`."""

    user_supplied: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFICATION,)

    class_name: str
    files: tuple[File, ...]
    classes: tuple[str, ...] | None = None  # None: the names that the class itself gives
    part: str | None = "train"  # the argument that chooses train or test: "train" (a bool), "split" (a name), or none
    most_bytes: int = 1 << 28  # of all unpacked files

    def fetch(self, download: Download) -> OriginalFiles:
        """Fetch the files as they are published."""
        return fetch_files(self.files, download)

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Unpack the files and let torchvision read all images into memory."""
        import torchvision  # takes seconds, and other kinds do not need it

        with damage_refused(raw):
            raw.check()
            for path in sorted(raw.root.iterdir()):
                if path.name.endswith(".tar.gz"):
                    unpack(path, reading.scratch, most_bytes=self.most_bytes, most_files=MOST_FILES)
                else:
                    (reading.scratch / path.name).symlink_to(path.resolve())
            parts = {}
            for part in ("train", "test") if self.part else ("all",):
                arguments: dict[str, bool | str] = {"train": part == "train"} if self.part == "train" else {}
                if self.part == "split":
                    arguments = {"split": part}
                data = getattr(torchvision.datasets, self.class_name)(reading.scratch, **arguments, download=False)
                targets = np.asarray(data.targets if hasattr(data, "targets") else data.labels).astype(np.int64)
                images = np.asarray(data.data)
                if images.ndim == 3:
                    images = images[:, np.newaxis]
                elif images.shape[-1] == 3:  # CIFAR: channels last
                    images = images.transpose(0, 3, 1, 2)
                parts[part] = Part.whole(images, targets)
            return checked(parts, self.classes or tuple(data.classes))
