"""Images with a table: classes and numbers, splits, groups."""

import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages import download, normalize
from stages.lib.core.errors import UserError
from stages.lib.datasets.image_files import looks
from stages.lib.preprocessing.pixel_statistics import mean_and_std_of_reals
from stages.lib.splits import shards
from tests.datasets.test_folder import files_of_test, photo, run, splits

ROWS = 40
REGRESSION = {"dataset": "csv", "task": "regression", "loss": "MSELoss"}


def tabulate(change: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table, **columns: object) -> pd.DataFrame:
    """Write images, and a table with these columns, changed by `change`."""
    root = Path("photos")
    rows = []
    for row in range(ROWS):
        path = f"images/{row % 3}/{row:02}.png"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        photo((40 + row * 5, 90, 200), seed=row).save(root / path)
        rows.append(path)
    table = change(pd.DataFrame({"path": rows, **columns}))
    table.to_csv(root / "labels.csv", index=False)
    return table


def test_classes_from_a_column(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tabulate(target=[("9", "10", "101")[row % 3] for row in range(ROWS)])
    photo((1, 2, 3), seed=0).save("photos/images/not in the table.png")
    run(dataset="csv")
    classes, stored = splits()
    assert classes == ["9", "10", "101"], "whole numbers are sorted by value"
    for _, targets, index in stored.values():
        np.testing.assert_array_equal(targets, index % 3)
    assert sum(len(index) for _, _, index in stored.values()) == ROWS
    assert "left out: 1 file(s), not in labels.csv" in capsys.readouterr().out


def test_targets_of_a_regression_keep_their_unit(folder: Path) -> None:
    table = tabulate(target_age=np.arange(ROWS) / 8, target_weight=np.arange(ROWS) ** 2 * 1e6)
    run(**REGRESSION)
    _, stored = splits()
    expected = table[["target_age", "target_weight"]].to_numpy()
    for _, targets, index in stored.values():
        assert targets.dtype == np.float64
        np.testing.assert_array_equal(targets, expected[index])
    description = shards.read(normalize.NORMALIZED / "train").description
    train = stored["train"][1]
    assert [quantity.name for quantity in description.quantities] == ["age", "weight"]
    for values, quantity in zip(train.T, description.quantities, strict=True):
        assert (quantity.mean, quantity.std) == pytest.approx((values.mean(), values.std()), rel=1e-14)
    assert description.classes == []
    assert description.outputs == 2


def test_parquet_gives_the_same_as_csv(folder: Path) -> None:
    table = tabulate(target=np.arange(ROWS) / 7, group=np.arange(ROWS) // 2)
    run(**REGRESSION)
    first = splits()[1]
    Path("photos/labels.csv").unlink()
    table.to_parquet("photos/labels.parquet")
    run(**REGRESSION)
    for name, arrays in splits()[1].items():
        for of_parquet, of_csv in zip(arrays, first[name], strict=True):
            np.testing.assert_array_equal(of_parquet, of_csv)
    assert files_of_test() == table["path"][first["test"][2]].tolist()


def test_a_split_that_the_table_lacks_is_drawn(folder: Path) -> None:
    official = np.where(np.arange(ROWS) < 10, "test", "train")
    table = tabulate(target=["ab"[row % 2] for row in range(ROWS)], split=official)
    run(dataset="csv")
    _, stored = splits()
    np.testing.assert_array_equal(stored["test"][2], np.arange(10))
    assert len(stored["val"][2]) == 3
    assert files_of_test() == table["path"][:10].tolist()


@pytest.mark.parametrize("task", [{"dataset": "csv"}, REGRESSION])
def test_no_group_falls_into_two_splits(folder: Path, task: dict[str, object]) -> None:
    groups = np.arange(ROWS) // 4
    table = tabulate(target=np.arange(ROWS) % 2, group=[f"patient {group}" for group in groups])
    run(**task, val_fraction=0.2, test_fraction=0.2)
    _, stored = splits()
    groups_of = [set(groups[index]) for _, _, index in stored.values()]
    assert set.union(*groups_of) == set(range(10))
    assert sum(map(len, groups_of)) == 10
    assert {len(stored["val"][2]), len(stored["test"][2])} == {8}
    assert files_of_test() == table["path"][stored["test"][2]].tolist()


@pytest.mark.parametrize(
    ("columns", "spoil", "words"),
    [
        ({"target": range(ROWS)}, lambda table: table.drop(columns="path"), "found no column `path`"),
        ({"target": range(ROWS)}, lambda table: table[:0], "a table without rows"),
        ({}, lambda table: table, "no column `target`, nor any that begins with `target_`"),
        ({"target": ["x", *range(1, ROWS)]}, lambda table: table, "row 0 has `x` as target; expected a finite number"),
        ({"target": ["0,5"] * ROWS}, lambda table: table, "row 0 (and 39 more) has `0,5` as target; expected a finite"),
        ({"target": ["12 cm"] * ROWS}, lambda table: table, "row 0 (and 39 more) has `12 cm` as target"),
        ({"target": [1, "", "inf", *range(3, ROWS)]}, lambda table: table, "row 1 (and 1 more) has nothing as target"),
        (
            {"target": range(ROWS), "path": ["../secret.png"] * ROWS},
            lambda table: table,
            "row 0 (and 39 more) names ../secret.png, and there is no such file",
        ),
        ({"target": range(ROWS), "split": ["train", "dog"] * 20}, lambda table: table, "row 1 (and 19 more) has"),
        ({"target": range(ROWS), "split": ["train", "no test"] * 20}, lambda table: table, "row 1 (and 19 more) has"),
        ({"target": range(ROWS), "split": ["val", "test"] * 20}, lambda table: table, "no row has the split `train`"),
        (
            {"target": range(ROWS), "split": ["train", "test"] * 20, "group": [7] * ROWS},
            lambda table: table,
            "the group 7 is in 2 splits",
        ),
        ({"target": range(ROWS), "group": [7, 8] * 20}, lambda table: table, "the column group has 2 group(s)"),
        ({"target": range(ROWS), "group": [1, "", 3, 4] * 10}, lambda table: table, "row 1 (and 9 more) has no group"),
        ({"target": [5] * ROWS}, lambda table: table, "target is 5 in every training row"),
    ],
)  # fmt: skip
def test_a_wrong_table_is_refused_in_one_line(
    folder: Path, columns: dict[str, object], spoil: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    tabulate(spoil, **columns)
    with pytest.raises(UserError) as refused:
        run(**REGRESSION)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("labels.csv", b'path,target\n"', "labels.csv: cannot be read as a table"),
        ("labels.csv", b"path,target\n\xff\xfe,1", "(it is in another encoding; save it as UTF-8)"),
        ("labels.csv", "path,target\nx,1".encode("utf-16"), "(it is in UTF-16; save it as UTF-8)"),
        ("labels.csv", b"", "labels.csv: cannot be read as a table"),
        ("labels.parquet", b"PAR1", "labels.parquet: cannot be read as a table"),
        ("labels.txt", b"path,target", "the source holds no table; expected one CSV or Parquet file at its top"),
    ],
)
def test_a_damaged_table_is_refused_in_one_line(folder: Path, name: str, content: bytes, words: str) -> None:
    tabulate(target=range(ROWS))
    Path("photos/labels.csv").unlink()
    (Path("photos") / name).write_bytes(content)
    with pytest.raises(UserError) as refused:
        run(dataset="csv")
    assert words in str(refused.value)


def test_groups_and_targets_stay_with_their_images(folder: Path) -> None:
    """With a test split in the table, unreadable images, and an archive of one folder."""
    groups = np.where(np.arange(ROWS) < 10, 100, np.arange(ROWS) // 3)
    official = np.where(np.arange(ROWS) < 10, "test", "train")
    table = tabulate(target=np.arange(ROWS) * 1.5, group=groups, split=official)
    for row in (3, 17):
        (Path("photos") / table["path"][row]).write_bytes(b"no image")
    with zipfile.ZipFile("photos.zip", "w") as archive:
        for path in sorted(Path("photos").rglob("*.*")):
            archive.write(path, Path("around") / path.relative_to("photos"))
    run(**REGRESSION, source="photos.zip", unreadable_allowed=2, val_fraction=0.3)
    _, stored = splits()
    rows = np.concatenate([index for _, _, index in stored.values()])
    assert sorted(rows) == [row for row in range(ROWS) if row not in (3, 17)]
    for images, targets, index in stored.values():
        np.testing.assert_array_equal(targets[:, 0], index * 1.5)
        for image, row in zip(images, index, strict=True):
            assert abs(image[0].mean() - (40 + row * 5)) < 10, "another row's image"
    groups_of = {name: set(groups[index]) for name, (_, _, index) in stored.items()}
    assert files_of_test(download.RAW / "files") == [f"around/{table['path'][row]}" for row in stored["test"][2]]
    assert groups_of["test"] == {100}
    assert not groups_of["train"] & groups_of["val"]
    first = stored["val"][2].tolist()
    run(**REGRESSION, source="photos.zip", unreadable_allowed=2, val_fraction=0.3, split_seed=7)
    assert splits()[1]["val"][2].tolist() != first


def test_class_names_that_look_like_missing_values(folder: Path) -> None:
    tabulate(target=[["NA", "nan", "None"][row % 3] for row in range(ROWS)])
    run(dataset="csv")
    assert splits()[0] == ["NA", "None", "nan"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table[5:].assign(path="x"), "row 0 (and 34 more) names x, and there is no such file"),
        (lambda table: table.sample(frac=1, random_state=0).assign(split="no"), "row 0 (and 39 more) has the split"),
        (lambda table: table.assign(target=pd.Timestamp("2026-01-01")), "holds values of type datetime64"),
        (lambda table: table.assign(target=True), "holds values of type bool, expected numbers"),
        (lambda table: table.assign(target=[np.nan, *range(1, ROWS)]), "row 0 has nothing as target"),
        (lambda table: table.assign(group=["", *"b" * (ROWS - 1)]), "row 0 has no group"),
        (lambda table: table.assign(target=1e200 * np.arange(ROWS)), "target is too large or too small"),
        (lambda table: table.assign(target=1e-200 * np.arange(ROWS)), "target is too large or too small"),
    ],
)  # fmt: skip
def test_a_wrong_parquet_file_is_refused_in_one_line(
    folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame], words: str
) -> None:
    table = tabulate(target=range(ROWS))
    Path("photos/labels.csv").unlink()
    change(table).to_parquet("photos/labels.parquet")
    with pytest.raises(UserError) as refused:
        run(**REGRESSION)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,target\nimages/0/00.png,0,7\n", "cannot be read as a table"),
        ("path,target,target\nimages/0/00.png,0,1\n", "the column `target` appears twice"),
        ("path,target\nimages/0/00.png,0\nimages/0/00.png,1\n", "row 1 names images/0/00.png a second time"),
        ("path,target_r2\nimages/0/00.png,0\n", "the column `target_r2` needs another name"),
        ("path,target_a,target_b\nimages/0/00.png,0,nan\n", "row 0 has `nan` as target_b; expected a finite number"),
        (
            "path;target\nimages/0/00.png;0\n",
            "it has path;target; separate the cells by commas",
        ),
        ("path,target\nimages\\0\\00.png,0\n", "there is no such file; write / in place of \\"),
        ("path,target\n/home/me/images/0/00.png,0\n", "it is absolute, and paths are relative to the table's folder"),
        ("path,target\nimages/0/00.PNG,0\n", "images/0/00.png differs in case alone; give both the same name"),
    ],
)
def test_a_wrong_csv_is_refused_in_one_line(folder: Path, text: str, words: str) -> None:
    tabulate(target=range(ROWS))
    Path("photos/labels.csv").write_text(text)
    with pytest.raises(UserError) as refused:
        run(**REGRESSION)
    assert words in str(refused.value)


def test_a_single_class_is_refused(folder: Path) -> None:
    tabulate(target=["a"] * ROWS)
    with pytest.raises(UserError, match="all images are of one class, a; expected two classes or more"):
        run(dataset="csv")


def test_two_tables_are_refused(folder: Path) -> None:
    tabulate(target=range(ROWS))
    Path("photos/other.csv").write_text("path,target\n")
    with pytest.raises(UserError, match="the source holds labels.csv, other.csv; expected one CSV"):
        run(dataset="csv")


def test_a_table_in_a_folder_below_is_left_out(folder: Path) -> None:
    tabulate(target=[row % 2 for row in range(ROWS)])
    Path("photos/images/notes.csv").write_text("x\n")
    run(dataset="csv")
    assert splits()[0] == ["0", "1"]


def test_a_table_alone_as_source_is_refused(folder: Path) -> None:
    """DVC would not notice its images."""
    tabulate(target=range(ROWS))
    with pytest.raises(UserError, match=r"photos/labels.csv: found no folder or archive, expected a folder"):
        run(dataset="csv", source="photos/labels.csv")
    assert not download.RAW.exists()


def test_the_order_of_the_values_does_not_change_their_statistics() -> None:
    values = np.random.default_rng(0).normal(1e6, 1, 10_001)
    assert mean_and_std_of_reals(values) == mean_and_std_of_reals(values[::-1])
    assert mean_and_std_of_reals(values) == pytest.approx((values.mean(), values.std()), rel=1e-12)


def test_parquet_text_that_is_not_utf_8_is_refused(folder: Path) -> None:
    tabulate(target="a")
    Path("photos/labels.csv").unlink()
    offsets, letters = np.arange(0, 4 * ROWS + 1, 4, dtype=np.int32), b"\xee\x00ab" * ROWS
    damaged = pa.Array.from_buffers(pa.string(), ROWS, [None, pa.py_buffer(offsets), pa.py_buffer(letters)])
    pq.write_table(pa.table({"path": damaged, "target": ["a", "b"] * (ROWS // 2)}), "photos/labels.parquet")
    with pytest.raises(UserError, match="labels.parquet: cannot be read as a table"):
        run(dataset="csv")


def test_spellings_of_one_label_group_or_split_are_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spaces around them, and the two forms in which Unicode has an accented letter; names that look alike are told."""
    names = ["caf\u00e9", "cafe\u0301 ", " Cat", "cat"]
    groups = [f"patient {row // 8}{' ' * (row % 2)}" for row in range(ROWS)]
    official = [("train", "Train ", "valid", "Test")[row // 8 % 4] for row in range(ROWS)]
    tabulate(target=[names[row % 4] for row in range(ROWS)], group=groups, split=official)
    run(dataset="csv")
    classes, stored = splits()
    assert classes == ["Cat", "caf\u00e9", "cat"]
    assert {name: len(index) for name, (_, _, index) in stored.items()} == {"train": 24, "val": 8, "test": 8}
    printed = capsys.readouterr().out
    assert "merged: 1 label(s) with other spaces around them" in printed
    assert "warning: classes that look alike: 'Cat' and 'cat'; if they are one, give them one name" in printed
    assert "3 classes: Cat (10), caf\u00e9 (20), cat (10)\n" in printed


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0"), ("01", "1"), ("hot dog", "hot_dog"), ("T-shirt", "t shirt"), ("\uff21", "a"), ("a\u200bb", "ab")],
)
def test_names_that_look_alike(one: str, other: str) -> None:
    assert looks(one) == looks(other)
    assert looks("C") != looks("C++")
    assert looks("1") != looks("-1")


def test_dropping_all_training_images_as_duplicates_is_refused(folder: Path) -> None:
    tabulate(target=range(ROWS), split=["train", "test"] * 20)
    for path in Path("photos").rglob("*.png"):
        photo((40, 90, 200), seed=0).save(path)
    with pytest.raises(UserError, match="no image is left for train; add some to the source"):
        run(**REGRESSION, drop_duplicates="true")
