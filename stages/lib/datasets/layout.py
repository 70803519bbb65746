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
    inside: dict[str, set[str]] = {each[0]: set() for each in folders}  # folder -> the folders in it
    for each in folders:
        inside[each[0]].update(each[1:2])
    names = sorted(inside)

    # A name that merely has the word in it counts if no folder has the name itself: train beside train_masks.
    exact = {name: SPLIT_NAMES[name.casefold()] for name in names if name.casefold() in SPLIT_NAMES}
    by_word = {name: split for name in names if (split := split_of(name)) and split not in exact.values()}
    splits = exact | by_word
    others = [name for name in names if name not in splits]
    train = [name for name, split in splits.items() if split == "train"]
    twice = [name for name, split in splits.items() if list(splits.values()).count(split) > 1]
    several = len(set(splits.values())) > 1

    if any(inside[name] for name in train) and (several or "train" in exact.values()):
        if twice:
            raise UserError(f"found several folders for one split: {some(twice)}; expected one for each")
        if not several and others:
            raise UserError(
                f"{train[0]} may be a split, or a class beside {some(others)}; expected train and val or test, or "
                "classes alone: rename it, or move the others out of the source"
            )
        return Layout(top, _split_folders(folders, splits))
    if several and train and not twice and ({"train"} < set(exact.values()) or not others):
        raise UserError(f"no class folders in {some(train)}; expected train/class/image")
    if len(exact) > 1 and not others and not train:
        raise UserError(f"found the splits {some(names)}, but no train; expected train/class/image")
    for name in names:  # each of them is a class
        if name in exact and inside[name] & set(names):
            raise UserError(f"{name} may be a split, or a class beside {some(names)}; expected train/class/image")
        if {"train"} < {split_of(each) for each in inside[name]} - {None}:
            raise UserError(f"splits in the folder {name}: {some(sorted(inside[name]))}; expected train/{name}/image")
    return Layout(top, {})


def _split_folders(folders: set[Folders], splits: Mapping[str, str]) -> dict[Folders, str]:
    """Return the folders that hold the classes of each split: (train,), or (seg_train, seg_train)."""
    ways = {}
    for name, split in splits.items():
        way: Folders = (name,)
        while len(below := {each[len(way)] for each in folders if each[: len(way)] == way and each != way}) == 1:
            if split_of(only := below.pop()) != split:
                break
            way += (only,)
        ways[way] = split
    return ways


def split_of(name: str) -> str | None:
    """Return the split that a folder's name stands for, by one of its words, or None: seg_train, TestSet, train2017."""
    words = re.findall("[a-z]+", re.sub("([a-z])([A-Z])", r"\1 \2", name).casefold())
    words = [re.sub("(?<=.)(set|data|images)$", "", word) for word in words]
    splits = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    return splits.pop() if len(splits) == 1 else None


def _around(folders: set[Folders]) -> Folders:
    """Return the folders around all others."""
    around: Folders = ()
    while len({each[0] for each in folders if each}) == 1 and any(len(each) > 1 for each in folders):
        around += max(folders)[:1]
        folders = {each[1:] for each in folders}
    return around
