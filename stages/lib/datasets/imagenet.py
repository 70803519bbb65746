"""Kind: ImageNet, from its official archives, unpacked and labelled by `torchvision.datasets.ImageNet`.

The split that its makers call val, whose labels are known, is the test split here; val is taken from train.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from stages.lib.core.errors import UserError
from stages.lib.datasets.kind import CLASSIFICATION, Contents, Download, Part, Reading
from stages.lib.datasets.published import checked, damage_refused, md5_of
from stages.lib.datasets.raw import MIRROR, OriginalFiles, Raw, mirror

OFFICIAL = {"train": "train", "test": "val"}


@dataclass(frozen=True)
class ImageNet:
    """The archives of ILSVRC 2012 in the folder DATASET_MIRROR: available after registration, too large to copy."""

    user_supplied: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFICATION,)

    archives: tuple[tuple[str, str], ...] = (  # name, md5
        ("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e"),
        ("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622"),
        ("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf"),
    )

    def fetch(self, download: Download) -> OriginalFiles:
        """Check the archives, and leave them where they are.

        Raises:
            UserError: DATASET_MIRROR is not a folder, or an archive is missing or has another md5.
        """
        names = [name for name, _ in self.archives]
        folder = mirror()
        if not folder or not Path(folder).is_dir():
            raise UserError(f"{MIRROR}: found {folder or 'nothing'}, expected the folder that holds {', '.join(names)}")
        for name, expected in self.archives:
            path = Path(folder) / name
            try:
                md5 = md5_of(path)
            except FileNotFoundError as error:
                raise UserError(f"{path}: not found; image-net.org offers it after registration") from error
            if md5 != expected:
                raise UserError(f"{path}: md5 {md5}, expected {expected}; download it again")
        return OriginalFiles(sorted(names), Path(folder), MIRROR)

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Unpack the archives and decode all images. torchvision compares the md5 of an archive before it opens it.

        Needs as much disk space as the archives take, and the decoded pixels' as well.
        """
        if not (mirror() and raw.root.is_dir()):
            raise UserError(
                f"{MIRROR}: found {mirror() or 'nothing'}, expected the folder with the archives that download checked"
            )
        with damage_refused(raw):
            for name in raw.checksums:
                (reading.scratch / name).symlink_to((raw.root / name).resolve())
            parts = {}
            for part in OFFICIAL:
                names, targets, classes = _unpack(reading.scratch, part)
                images, unreadable = reading.decode(
                    lambda _: partial(_content, reading.scratch), names, reading.scratch / f"{part}.pixels"
                )
                if unreadable:
                    raise ValueError(f"{len(unreadable)} images of {part}: {next(iter(unreadable.values()))}")
                parts[part] = Part.whole(images, targets, names)
            return checked(parts, classes)


def _unpack(folder: Path, part: str) -> tuple[list[str], np.ndarray, tuple[str, ...]]:
    """Unpack the archive of one part.

    Returns:
        The images' paths below `folder`, their class numbers (N,) int64, and the names of the classes.

    Raises:
        RuntimeError: an archive is not the official one.
        OSError: the disk is full.
    """
    from torchvision.datasets import ImageNet as Reader  # takes seconds, and other kinds do not need it

    data: Any = Reader(folder, split=OFFICIAL[part])
    names = [Path(path).relative_to(folder).as_posix() for path, _ in data.samples]
    first = [synonyms[0] for synonyms in data.classes]
    classes = tuple(
        name if first.count(name) == 1 else f"{name} ({wnid})"  # there are two kinds of crane
        for name, wnid in zip(first, data.wnids, strict=True)
    )
    return names, np.array(data.targets, np.int64), classes


def _content(folder: Path, name: str) -> bytes:
    return (folder / name).read_bytes()
