"""Kind: images in a folder for each class: class/image, or train/class/image, val/class/image, test/class/image."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from stages.lib.core.errors import UserError
from stages.lib.datasets.image_files import LabelledFiles, decode, number_classes
from stages.lib.datasets.kind import CLASSIFICATION, Contents, Download, Reading
from stages.lib.datasets.raw import OriginalFiles, Raw

PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class Folder:
    """The user's image files; the names of their folders are the classes."""

    user_supplied: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFICATION,)

    def fetch(self, download: Download) -> OriginalFiles:
        """Bring the user's files."""
        return download.bring()

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Decode the images."""
        return decode(label_by_folder(list(raw.sha256)), raw, reading)


def label_by_folder(names: Sequence[str]) -> LabelledFiles:
    """Return the images among the files of a source, with their classes and parts.

    Raises:
        UserError: there is no image in a class folder, or a class folder without an image.
    """
    from PIL import Image  # which download does without

    paths = [PurePosixPath(name) for name in names]
    while len(tops := {path.parts[0] for path in paths}) == 1 and all(len(path.parts) > 2 for path in paths):
        paths = [path.relative_to(next(iter(tops))) for path in paths]  # an archive of one folder
    has_splits = "train" in tops and tops <= set(PARTS) | {path.name for path in paths if len(path.parts) == 1}
    suffixes = Image.registered_extensions()
    images: list[str] = []
    labels: list[str] = []
    parts: list[str] = []
    left_out = Counter[str]()
    for name, path in zip(names, paths, strict=True):
        folders = path.parts[1:-1] if has_splits else path.parts[:-1]
        if path.suffix.lower() not in suffixes:
            left_out[f"no image ({path.suffix or path.name})"] += 1
        elif not folders:
            left_out["in no class folder"] += 1
        else:
            images.append(name)
            labels.append(folders[0])
            parts.append(PARTS[path.parts[0]] if has_splits else "all")
    for why, count in sorted(left_out.items()):
        print(f"left out: {count:,} file(s), {why}")
    if not images:
        raise UserError(
            "the source holds no image in a class folder; expected class/image.jpg or train/class/image.jpg"
        )
    classes = {folders[0] for path in paths if (folders := path.parts[1:-1] if has_splits else path.parts[:-1])}
    if empty := sorted(classes - set(labels)):
        raise UserError(f"class folder(s) without an image: {', '.join(empty)}; put images into them, or remove them")
    return LabelledFiles(images, *number_classes(labels), parts, groups=None)
