"""Which folders of a source are splits, and which are classes."""

from pathlib import PurePosixPath

import pytest

from stages.lib.core.errors import UserError
from stages.lib.datasets.layout import layout_of


def placed(*paths: str) -> dict[str, tuple[str, str] | str]:
    layout = layout_of(map(PurePosixPath, paths))
    return {path: layout.place(PurePosixPath(path)) for path in paths}


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (("train", "test"), ("train", "test")),
        (("Train", "Test"), ("train", "test")),
        (("TRAINING", "Validation", "testing"), ("train", "val", "test")),
        (("training", "validation", "evaluation"), ("train", "val", "test")),
        (("train", "valid"), ("train", "val")),
        (("train", "dev", "eval"), ("train", "val", "test")),
        (("seg_train", "seg_test"), ("train", "test")),
        (("train2017", "val2017"), ("train", "val")),
        (("Training Data", "Test Data"), ("train", "test")),
        (("TrainSet", "TestSet"), ("train", "test")),
        (("trainset", "testimages"), ("train", "test")),
        (("train", "test1"), ("train", "test")),
    ],
)
@pytest.mark.parametrize("around", ["", "photos/", "my photos/2026/"])
def test_splits_by_their_usual_names(names: tuple[str, ...], splits: tuple[str, ...], around: str) -> None:
    split_of = dict(zip(names, splits, strict=True))
    paths = {f"{around}{name}/{label}/1.png": (split, label) for name, split in split_of.items() for label in "ab"}
    assert placed(*paths) == paths


def test_a_split_in_a_folder_of_its_own_name() -> None:
    paths = {
        "seg_train/seg_train/sea/1.png": ("train", "sea"),
        "seg_train/seg_train/ice/1.png": ("train", "ice"),
        "seg_test/seg_test/sea/1.png": ("test", "sea"),
        "seg_pred/seg_pred/1.png": "in seg_pred, beside the splits",
    }
    assert placed(*paths) == paths


def test_classes_with_the_names_of_splits() -> None:
    vehicles = {f"{name}/{number}.png": ("all", name) for name in ("bus", "train", "test car") for number in range(2)}
    assert placed(*vehicles) == vehicles
    within = {f"{split}/{name}/1.png": (split, name) for split in ("train", "test") for name in ("bus", "train")}
    assert placed(*within) == within
    stations = {f"{name}/big/1.png": ("all", name) for name in ("train station", "airport")}
    assert placed(*stations) == stations


def test_folders_in_a_class_folder_belong_to_it() -> None:
    paths = {"cat/2025/1.png": ("all", "cat"), "cat/2.png": ("all", "cat"), "dog/3.png": ("all", "dog")}
    assert placed(*paths) == paths


def test_images_beside_the_folders_are_in_no_class() -> None:
    paths = {
        "Pets/Cat/1.png": ("all", "Cat"),
        "Pets/Dog/1.png": ("all", "Dog"),
        "Pets/cover.png": "in no class folder",
        "logo.png": "in no class folder",
    }
    assert placed(*paths) == paths
    assert layout_of(map(PurePosixPath, paths)).place(PurePosixPath("papers/readme.txt")) == "in no class folder"


def test_what_is_beside_the_splits_is_left_out() -> None:
    paths = {
        "train/a/1.png": ("train", "a"),
        "test/a/1.png": ("test", "a"),
        "test/loose.png": "in no class folder",
        "extra/a/1.png": "in extra, beside the splits",
    }
    assert placed(*paths) == paths


def test_a_name_with_the_word_of_a_split_counts_if_no_folder_has_the_name() -> None:
    paths = {
        "train/a/1.png": ("train", "a"),
        "train_masks/a/1.png": "in train_masks, beside the splits",
        "test/a/1.png": ("test", "a"),
        "test_corrupted/a/1.png": "in test_corrupted, beside the splits",
        "val_split/a/1.png": ("val", "a"),
    }
    assert placed(*paths) == paths
    flat = {f"{name}/1.png": ("all", name) for name in ("positive_test", "negative_test", "dev board", "eval board")}
    assert placed(*flat) == flat
    without_classes = {
        "alphabet_train/alphabet_train/A/1.png": ("train", "A"),
        "alphabet_train/alphabet_train/B/1.png": ("train", "B"),
        "alphabet_test/alphabet_test/A_test.png": "in no class folder",
    }
    assert placed(*without_classes) == without_classes


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ("cat/1.png", "dog/1.png", "test/cat/1.png", "test/dog/1.png"),
            "test may be a split, or a class beside cat,",
        ),
        (("train/a/1.png", "train/b/1.png", "train/val/a/1.png"), "val may be a split, or a class beside a, b, val"),
        (("train/a/1.png", "Training/a/1.png", "test/a/1.png"), "several folders for one split: Training, train"),
        (
            ("cat_train/x/1.png", "dog_train/x/1.png", "cat_test/x/1.png"),
            "several folders for one split: cat_train,",
        ),
        (("images_train/1.png", "images_test/1.png"), "no class folders in images_train"),
        (("train/1.png", "test/1.png"), "no class folders in train; expected train/class/image"),
        (("val/a/1.png", "test/a/1.png"), "found the splits test, val, but no train; expected train/class/image"),
        (("train/a/1.png", "bus/1.png"), "train may be a split, or a class beside bus; expected"),
        (
            ("cat/train/1.png", "cat/test/1.png", "dog/1.png"),
            "splits in the folder cat: test, train; expected",
        ),
    ],
)
def test_an_unclear_layout_is_refused(paths: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as refused:
        placed(*paths)
    assert message in str(refused.value)
