"""Stratified and grouped splits into train, val and test."""

import numpy as np
import pytest

from stages.lib.core.errors import UserError
from stages.lib.preprocessing.splitting import grouped, stratified

NAMES = ["zero", *"123456789"]
TARGETS = np.repeat(np.arange(10), 500)


def test_stratified_assigns_every_row_once_and_the_same_fraction_of_each_class() -> None:
    rows = stratified(TARGETS, {"val": 0.1, "test": 0.2}, seed=0, names=NAMES)
    np.testing.assert_array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(5000))
    for name, count in {"train": 350, "val": 50, "test": 100}.items():
        np.testing.assert_array_equal(np.bincount(TARGETS[rows[name]]), np.full(10, count))
        assert (np.diff(rows[name]) > 0).all()


def test_the_seed_determines_the_split() -> None:
    first, repeated, different = (
        stratified(TARGETS, {"val": 0.1}, seed=seed, names=NAMES)["val"] for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, repeated)
    assert 0 < np.isin(different, first).mean() < 0.3  # 0.1 is expected by chance


def test_the_split_does_not_depend_on_library_versions() -> None:
    assert stratified(TARGETS, {"val": 0.01}, seed=0, names=NAMES)["val"][:6].tolist() == [11, 150, 196, 269, 403, 600]


def test_classes_of_unequal_size_add_up_to_the_overall_fraction() -> None:
    sizes = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]  # of MNIST's training part
    targets = np.repeat(np.arange(10), sizes)
    rows = stratified(targets, {"val": 0.1}, seed=0, names=NAMES)
    assert (len(rows["train"]), len(rows["val"])) == (54_000, 6_000)
    assert (np.abs(np.bincount(targets[rows["val"]]) - np.array(sizes) * 0.1) < 1).all()


def test_groups_are_assigned_by_class_and_size() -> None:
    """Ten classes of two groups each, one large group among small ones, and a rare class present in three groups."""
    fractions = {"val": 0.2, "test": 0.3}
    targets = np.repeat(np.arange(10), 20)
    rows = grouped(targets, np.arange(200) // 10, fractions, seed=0)
    assert {split: len(members) for split, members in rows.items()} == {"train": 100, "val": 40, "test": 60}
    sizes = [900, *[10] * 10]
    groups = np.repeat(np.arange(11), sizes)
    for seed in range(20):
        rows = grouped(np.zeros(1000, np.int64), groups, fractions, seed=seed)
        assert 0 in groups[rows["train"]]
        assert all(len(members) for members in rows.values())
    groups = np.arange(200) // 10
    rare = (groups < 3).astype(np.int64)
    in_all_splits = 0
    for seed in range(50):
        rows = grouped(rare, groups, fractions, seed=seed)
        in_all_splits += all(rare[members].any() for members in rows.values())
    assert in_all_splits > 35


def test_too_few_groups_are_refused() -> None:
    with pytest.raises(UserError, match="the column group has 2 group\\(s\\), which leaves none for"):
        grouped(np.zeros(10, np.int64), np.array([7] * 5 + [9] * 5), {"val": 0.2, "test": 0.2}, seed=0)


@pytest.mark.parametrize(("fractions", "empty"), [({"val": 0.0001}, "val"), ({"val": 0.5, "test": 0.499}, "train")])
def test_a_class_too_small_to_split_is_refused(fractions: dict[str, float], empty: str) -> None:
    with pytest.raises(UserError, match=f"val_fraction .* class zero has 4 rows, which leaves none for {empty}"):
        stratified(np.repeat(np.arange(3), 4), fractions, seed=0, names=NAMES)
