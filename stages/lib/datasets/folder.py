"""Kind: images in a folder for each class, with splits or without; `layout.py` describes what is recognized."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import ClassVar

from stages.lib.core.errors import UserError, some
from stages.lib.datasets.image_files import LabelledFiles, decode, number_classes
from stages.lib.datasets.image_names import is_image, kind_of
from stages.lib.datasets.kind import CLASSIFICATION, Contents, Download, Reading
from stages.lib.datasets.layout import layout_of
from stages.lib.datasets.raw import OriginalFiles, Raw

LINES = 5  # to print about files that are left out


class Folder:
    """The user's image files; the names of their folders are the classes."""

    user_supplied: ClassVar[bool] = True
    tasks: ClassVar[tuple[str, ...]] = (CLASSIFICATION,)

    def fetch(self, download: Download) -> OriginalFiles:
        """Bring the user's files."""
        return download.bring(False)

    def read(self, raw: Raw, reading: Reading) -> Contents:
        """Decode the images."""
        return decode(
            label_by_folder(list(raw.checksums), lambda name: is_image(name, lambda: raw.open(name))), raw, reading
        )


def label_by_folder(names: Sequence[str], is_image: Callable[[str], bool]) -> LabelledFiles:
    """Return the images among the files of a source, with their classes and parts, and print what is left out.

    Raises:
        UserError: there is no image in a class folder, or a class folder without an image, or the layout is unclear.
    """
    is_image_of = {name: is_image(name) for name in names}
    layout = layout_of(PurePosixPath(name) for name in names if is_image_of[name])
    if renamed := [
        f"{'/'.join(way)} is {split}" for way, split in layout.splits.items() if way[-1].casefold() != split
    ]:
        print(f"splits: {', '.join(renamed)}")
    images: list[str] = []
    labels: list[str] = []
    parts: list[str] = []
    classes = set()
    left_out = Counter[str]()
    for name in names:
        place = layout.place(PurePosixPath(name))
        if not isinstance(place, str):
            classes.add(place[1])
        if not is_image_of[name]:
            left_out[f"no image ({kind_of(name)})"] += 1
        elif isinstance(place, str):
            left_out[place] += 1
        else:
            images.append(name)
            parts.append(place[0])
            labels.append(place[1])
    report_left_out(left_out)
    if not images:
        raise UserError(
            "the source holds no image in a class folder; expected class/image.jpg or train/class/image.jpg"
        )
    if empty := sorted(classes - set(labels)):
        raise UserError(f"class folder(s) without an image: {some(empty)}; put images into them, or remove them")
    return LabelledFiles(images, *number_classes(labels), parts, groups=None)


def report_left_out(counts: Counter[str]) -> None:
    """Print how many files are left out and why, the most frequent reasons in a line each."""
    for why, count in counts.most_common(LINES):
        print(f"left out: {count:,} file(s), {why}")
    if others := counts.most_common()[LINES:]:
        print(f"left out: {sum(count for _, count in others):,} file(s), for {len(others):,} other reasons")
