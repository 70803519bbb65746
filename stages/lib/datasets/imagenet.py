"""ImageNet from its official archives, unpacked and labelled by `torchvision.datasets.ImageNet`.

The images that the makers call val, whose labels are known, are the test split here; val is taken from train.
"""

from pathlib import Path
from typing import Any

from stages.lib.datasets.raw import Raw

OFFICIAL = {"train": "train", "test": "val"}


def unpacked(raw: Raw, folder: Path, part: str) -> tuple[list[str], list[int], tuple[str, ...]]:
    """Unpack one part. torchvision checks the md5 of an archive before it opens it.

    Args:
        raw: where the archives are.
        folder: where to unpack them; needs as much room as they have.
        part: "train" or "test".

    Returns:
        The images' paths below `folder`, their class numbers, and the names of the classes.

    Raises:
        RuntimeError: an archive is not the official one.
        OSError: there is no room.
    """
    from torchvision.datasets import ImageNet

    for name in raw.sha256:
        if not (folder / name).exists():
            (folder / name).symlink_to((raw.root / name).resolve())
    data: Any = ImageNet(folder, split=OFFICIAL[part])
    names = [Path(path).relative_to(folder).as_posix() for path, _ in data.samples]
    first = [synonyms[0] for synonyms in data.classes]
    classes = tuple(
        name if first.count(name) == 1 else f"{name} ({wnid})"  # there are two kinds of crane
        for name, wnid in zip(first, data.wnids, strict=True)
    )
    return names, data.targets, classes
