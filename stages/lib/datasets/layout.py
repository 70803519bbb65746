"""The layout of images in folders: which folders are splits, and which are classes.

class/image
train/class/image, test/class/image     splits by their usual names in any case, also as a word: seg_train/
Folders around everything are ignored, and so are images beside all folders.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from stages.lib.core.errors import UserError, some

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev"), "val"),
    **dict.fromkeys(("test", "testing", "tst", "eval", "evaluation"), "test"),
}
NO_CLASS = "in no class folder"
Folders = tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """Which of the folders above an image name its split and its class."""

    top: Folders  # around everything
    splits: Mapping[Folders, str]  # folders below `top` -> "train", "val" or "test"; empty if the source has no splits

    def place(self, path: PurePosixPath) -> tuple[str, str] | str:
        """Return the split ("all" if the source has none) and the class of a file, or why it has none."""
        folders = path.parts[:-1]
        if folders[: len(self.top)] != self.top or len(folders) == len(self.top):
            return NO_CLASS
        folders = folders[len(self.top) :]
        if not self.splits:
            return "all", folders[0]
        for folder, split in self.splits.items():
            if folders[: len(folder)] == folder:
                return (split, folders[len(folder)]) if len(folders) > len(folder) else NO_CLASS
        return f"in {folders[0]}, beside the splits"


def layout_of(images: Iterable[PurePosixPath]) -> Layout:
    """Recognize the layout by the paths of all images.

    Raises:
        UserError: it is unclear which folders are splits.
    """
    folders = {path.parts[:-1] for path in images if len(path.parts) > 1}
    top = _around(folders)
    folders = {each[len(top) :] for each in folders if len(each) > len(top)}
    names = sorted({each[0] for each in folders})
    split_by_name = {name: split for name in names if (split := split_of(name))}
    others = [name for name in names if name not in split_by_name]
    splits = set(split_by_name.values())
    train = [name for name, split in split_by_name.items() if split == "train"]
    exact = {split for name, split in split_by_name.items() if name.casefold() in SPLIT_NAMES}

    if any(len(each) > 1 for each in folders if each[0] in train) and (len(splits) > 1 or "train" in exact):
        if len(splits) == 1 and others:
            raise UserError(
                f"{train[0]} may be a split, or a class beside {some(others)}; expected train and val or test, or "
                "classes alone: rename it, or move the others out of the source"
            )
        return Layout(top, _split_folders(folders, split_by_name))
    if len(names) > 1 and not others and not train:
        raise UserError(f"found the splits {some(names)}, but no train; expected train/class/image")
    if {"train"} < exact or ({"train"} < splits and not others):
        raise UserError(f"no class folders in {some(train)}; expected train/class/image")
    for name in names:  # each of them is a class
        inside = {each[1] for each in folders if each[0] == name and len(each) > 1 and split_of(each[1])}
        if {"train"} < {split_of(each) for each in inside}:
            raise UserError(f"splits in the folder {name}: {some(sorted(inside))}; expected train/{name}/image")
    return Layout(top, {})


def _split_folders(folders: set[Folders], split_by_name: Mapping[str, str]) -> dict[Folders, str]:
    """Return the folders that hold the classes of each split: (train,), or (seg_train, seg_train)."""
    splits = {}
    for name, split in split_by_name.items():
        around = _around({each[1:] for each in folders if each[0] == name})
        repeated = around and all(split_of(each) == split for each in around)
        splits[(name, *around) if repeated else (name,)] = split
    return splits


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for, by itself or by one of its words, or None."""
    splits = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", name.casefold()) if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _around(folders: set[Folders]) -> Folders:
    """Return the folders around all others."""
    around: Folders = ()
    while len({each[0] for each in folders if each}) == 1 and any(len(each) > 1 for each in folders):
        around += max(folders)[:1]
        folders = {each[1:] for each in folders}
    return around
