"""The user's images and targets in NumPy's files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stages import normalize
from stages.lib.core.errors import UserError
from stages.lib.fetching import sources
from stages.lib.preprocessing import fitting
from tests.datasets.test_folder import choose, run, splits

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (100, 3, 8, 8), np.uint8)
TARGETS = np.arange(100) % 4


def save(folder: Path, **arrays: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.mark.parametrize(
    ("images", "expected"),
    [(IMAGES, IMAGES), (IMAGES.transpose(0, 2, 3, 1).copy(), IMAGES), (IMAGES[:, 0].copy(), IMAGES[:, :1])],
    ids=["channels first", "channels last", "grey"],
)
def test_images_and_their_classes(folder: Path, images: np.ndarray, expected: np.ndarray) -> None:
    save(folder / "mine", images=images, targets=TARGETS.astype(np.uint8))
    run(dataset="arrays", source="mine")
    classes, stored = splits()
    assert classes == ["0", "1", "2", "3"]
    assert {name: len(images) for name, (images, _, _) in stored.items()} == {"train": 70, "val": 10, "test": 20}
    for images, targets, index in stored.values():
        np.testing.assert_array_equal(images, expected[index])
        np.testing.assert_array_equal(targets, TARGETS[index])


@pytest.mark.parametrize("block", [1, 500, 1 << 20])
def test_the_size_of_a_block_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    save(folder / "mine", images=IMAGES, targets=TARGETS)
    run(dataset="arrays", source="mine", image_size=4)
    before = {path: path.read_bytes() for path in normalize.NORMALIZED.rglob("*.*")}
    monkeypatch.setattr(fitting, "BLOCK", block)
    run(dataset="arrays", source="mine", image_size=4)
    assert {path: path.read_bytes() for path in normalize.NORMALIZED.rglob("*.*")} == before


def test_splits_of_the_source_stay_as_they_are(folder: Path) -> None:
    save(folder / "mine", train_images=IMAGES[:60], train_targets=TARGETS[:60])
    save(folder / "mine", test_images=IMAGES[60:], test_targets=TARGETS[60:])
    run(dataset="arrays", source="mine")
    _, stored = splits()
    np.testing.assert_array_equal(stored["test"][0], IMAGES[60:])
    assert len(stored["train"][0]) + len(stored["val"][0]) == 60


def test_targets_of_a_regression(folder: Path) -> None:
    save(folder / "mine", images=IMAGES, targets=np.column_stack([TARGETS * 0.5, -TARGETS]))
    run(dataset="arrays", source="mine", task="regression", loss="MSELoss")
    _, stored = splits()
    for _, targets, index in stored.values():
        np.testing.assert_array_equal(targets, np.column_stack([TARGETS * 0.5, -TARGETS])[index])


def test_large_arrays_are_not_copied(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "LARGE", 1000)
    save(folder / "mine", images=IMAGES, targets=TARGETS)
    run(dataset="arrays", source="mine")
    assert not list((folder / "data/raw").rglob("*.npy"))
    np.save(folder / "mine/images.npy", IMAGES[::-1].copy())
    with pytest.raises(UserError, match="mine: images.npy has changed since it was downloaded; run `dvc repro`"):
        normalize.main()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "targets.npy: not found; expected the targets of the images beside it"),
        ({"targets": TARGETS}, "found targets.npy; expected images.npy and targets.npy, or train_images.npy"),
        ({"images": IMAGES, "targets": TARGETS[1:]}, "images.npy and targets.npy have 100 images and 99 targets"),
        ({"images": IMAGES * 1.0, "targets": TARGETS}, r"images.npy: found float64 .*; expected uint8 \(N, H, W\)"),
        ({"images": IMAGES[:, :2], "targets": TARGETS}, r"images.npy: found uint8 \(100, 2, 8, 8\); expected uint8"),
        (
            {"images": np.asfortranarray(IMAGES), "targets": TARGETS},
            "an array .*np.ascontiguousarray",
        ),
        ({"images": IMAGES, "targets": TARGETS + 1}, "the targets count from 1; expected numbers from 0"),
        ({"images": IMAGES, "targets": TARGETS * 2}, "no image of class 1, 3, 5, of 7 classes; expected some of each"),
        ({"images": IMAGES, "targets": 54321 * (TARGETS > 1)}, "class 1, 2, 3, 4, 5 and 54,315 more, of"),
        (
            {"images": IMAGES, "targets": np.where(TARGETS, 1.0, np.nan)},
            "row 0 is nan .*; expected whole numbers from 0",
        ),
        ({"images": IMAGES, "targets": TARGETS * 0}, "all images are of one class, 0; expected two classes or more"),
        ({"images": IMAGES, "targets": TARGETS * 0.5}, "targets.npy: found float64 .*; expected whole numbers from 0"),
        (
            {"images": IMAGES, "targets": TARGETS - 1},
            r"targets.npy: row \d+ is -1 .*; expected whole numbers from 0",
        ),
        (
            {
                **{"train_images": IMAGES, "train_targets": TARGETS},
                **{"test_images": IMAGES[:, :1], "test_targets": TARGETS},
            },
            "found images of .*; expected one shape",
        ),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_wrong_arrays_are_refused_in_one_line(folder: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    save(folder / "mine", **arrays)
    with pytest.raises(UserError, match=message):
        run(dataset="arrays", source="mine")
    assert not normalize.NORMALIZED.exists()


@pytest.mark.parametrize("damage", [lambda content: content[:100], lambda _: b"", lambda content: content[:-1]])
def test_damaged_arrays_are_refused_in_one_line(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    save(folder / "mine", images=IMAGES, targets=TARGETS)
    path = folder / "mine/images.npy"
    path.write_bytes(damage(path.read_bytes()))
    choose(dataset="arrays", source="mine")
    with pytest.raises(UserError, match="images.npy: cannot be read as an array"):
        run(dataset="arrays", source="mine")
