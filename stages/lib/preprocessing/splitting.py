"""Split labelled rows into train, val and test: stratified, seeded, and the same with every version of NumPy.

Every class is divided by itself. The rows are chosen by the raw 64-bit stream of PCG64, which NumPy promises to keep
(NEP 19); `Generator.permutation` and similar methods may change between versions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stages.lib.core.errors import UserError


def stratified(
    targets: np.ndarray, fractions: Mapping[str, float], *, seed: int, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Return the rows of each named split, and of the rest as "train".

    Args:
        targets: (N,) class numbers.
        fractions: name of a split -> its fraction of all rows, and of each class as nearly as whole rows allow.
        seed: of the choice of rows.
        names: of the classes, for error messages.

    Returns:
        name -> row numbers, int64, ascending; together they are all rows, each once.

    Raises:
        UserError: a class would have no row in a split.
    """
    keys = np.random.PCG64(seed).random_raw(len(targets))
    sizes = np.bincount(targets)
    classes, sizes = np.flatnonzero(sizes), sizes[sizes > 0]
    counts = {split: apportion(fraction, sizes) for split, fraction in fractions.items()}  # of each class
    counts["train"] = sizes - np.sum([*counts.values(), np.zeros_like(sizes)], axis=0)
    for split, count in counts.items():
        if (count < 1).any():
            first = int(np.argmax(count < 1))
            given = ", ".join(f"{name}_fraction {fraction:g}" for name, fraction in fractions.items())
            remedy = "choose fractions that leave it a row in each split"
            if sizes[first] < len(counts):  # which no fractions do
                remedy = f"give it at least {len(counts)}, or leave the class out"
            raise UserError(
                f"params.yaml: {given}: class {names[classes[first]]} has {sizes[first]} rows, which leaves none for "
                f"{split}; {remedy}"
            )
    split_of_row = np.empty(len(targets), np.uint8)  # one byte per row: there may be many rows
    for number, label in enumerate(classes):
        rows = np.flatnonzero(targets == label)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        ends = np.cumsum([count[number] for count in counts.values()])
        for split_number, chosen in enumerate(np.split(rows, ends[:-1])):
            split_of_row[chosen] = split_number
    return {split: np.flatnonzero(split_of_row == number) for number, split in enumerate(counts)}


def grouped(
    targets: np.ndarray, groups: np.ndarray, fractions: Mapping[str, float], *, seed: int
) -> dict[str, np.ndarray]:
    """Return the rows of each named split, and of the rest as "train", so that no group falls into two splits.

    Groups are assigned one by one: first those that hold most of a class or of all rows, equal ones in seeded order.
    Each goes to the split that lacks most of what the group holds.

    Args:
        targets: (N,) class numbers.
        groups: (N,) numbers.
        fractions: name of a split -> its fraction of all rows, and of each class, as nearly as groups allow.
        seed: of the order of the groups.

    Raises:
        UserError: a split gets no group, because there are too few or their sizes differ too much.
    """
    names, groups = np.unique(groups, return_inverse=True)
    fraction_of = {"train": 1 - sum(fractions.values()), **fractions}
    counts = np.zeros((len(names), int(targets.max()) + 1))
    np.add.at(counts, (groups, targets), 1)
    counts = np.column_stack([counts, counts.sum(1)])  # (groups, classes + 1): of each class, and of all rows
    held = counts / np.maximum(counts.sum(0), 1)  # the fraction that each group holds
    goals = np.array(list(fraction_of.values()))[:, np.newaxis]  # (splits, 1)
    filled = np.zeros((len(fraction_of), counts.shape[1]))
    split_of_group = np.empty(len(names), np.int64)
    for group in np.lexsort((np.random.PCG64(seed).random_raw(len(names)), -held.max(1))):
        split = int(np.argmax(((goals - filled) / goals) @ held[group]))
        split_of_group[group] = split
        filled[split] += held[group]
    rows = {name: np.flatnonzero(split_of_group[groups] == split) for split, name in enumerate(fraction_of)}
    if empty := [name for name, rows_of_split in rows.items() if not len(rows_of_split)]:
        raise UserError(
            f"the column group has {len(names)} group(s), which leaves none for {' and '.join(empty)}; "
            "give more groups, or a column `split`"
        )
    return rows


def apportion(fraction: float, sizes: np.ndarray) -> np.ndarray:
    """Return how many rows of each class to take: `fraction` of it, rounded so that the sum is that of all rows.

    Method of the largest remainders.
    """
    exact = fraction * sizes
    counts: np.ndarray = np.floor(exact).astype(np.int64)
    missing = round(fraction * int(sizes.sum())) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts
