"""Dividing labelled rows into train, val and test: stratified, seeded, and stable for good.

Every class is divided by itself. Which of its rows go where follows from the raw 64-bit stream of PCG64, which NumPy
promises to keep (NEP 19); `Generator.permutation` and its like may change between versions.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stages.lib.core.errors import UserError


def stratified(
    targets: np.ndarray, fractions: Mapping[str, float], *, seed: int, names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Row numbers of each named share, and of the rest under "train".

    Args:
        targets: (N,) class numbers.
        fractions: name of a share -> its fraction of all rows, and of every class as nearly as whole rows allow.
        seed: of the choice of rows.
        names: of the classes, for people.

    Returns:
        name -> row numbers, int64, ascending; together they are every row once.

    Raises:
        UserError: a class would have no row in one of them.
    """
    keys = np.random.PCG64(seed).random_raw(len(targets))
    sizes = np.bincount(targets)
    labels, sizes = np.flatnonzero(sizes), sizes[sizes > 0]
    counts = {name: apportion(fraction, sizes) for name, fraction in fractions.items()}
    counts["train"] = sizes - np.sum([*counts.values(), np.zeros_like(sizes)], axis=0)
    for name, share in counts.items():
        if (share < 1).any():
            label, size = next(
                (label, size) for label, size, rows in zip(labels.tolist(), sizes, share, strict=True) if rows < 1
            )
            given = ", ".join(f"{each}_fraction {fraction:g}" for each, fraction in fractions.items())
            raise UserError(
                f"params.yaml: {given}: class {names[label]} has {size} rows, which leaves none for {name}; "
                "choose fractions that leave every class a row in each split"
            )
    place = np.empty(len(targets), np.uint8)  # a byte a row: there may be many
    for number, own in enumerate(labels):
        rows = np.flatnonzero(targets == own)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        ends = np.cumsum([share[number] for share in counts.values()])
        for at, part in enumerate(np.split(rows, ends[:-1])):
            place[part] = at
    return {name: np.flatnonzero(place == at) for at, name in enumerate(counts)}


def grouped(
    targets: np.ndarray, groups: np.ndarray, fractions: Mapping[str, float], *, seed: int
) -> dict[str, np.ndarray]:
    """The same where rows belong together: no group falls into two shares.

    Groups come one after another, those first that hold most of a class or of all rows, equal ones in seeded order;
    each goes where what it holds is wanted most.

    Args:
        targets: (N,) class numbers.
        groups: (N,) numbers.
        fractions: name of a share -> its fraction of all rows, and of every class, as nearly as groups allow.
        seed: of the order of the groups.

    Raises:
        UserError: there are too few groups, or they are too uneven.
    """
    names, groups = np.unique(groups, return_inverse=True)
    wanted = {"train": 1 - sum(fractions.values()), **fractions}
    counts = np.zeros((len(names), int(targets.max()) + 1))
    np.add.at(counts, (groups, targets), 1)
    counts = np.column_stack([counts, counts.sum(1)])  # of each class, and of all
    holds = counts / np.maximum(counts.sum(0), 1)
    shares = np.array(list(wanted.values()))[:, np.newaxis]
    filled = np.zeros((len(wanted), counts.shape[1]))
    place = np.empty(len(names), np.int64)
    for group in np.lexsort((np.random.PCG64(seed).random_raw(len(names)), -holds.max(1))):
        share = int(np.argmax(((shares - filled) / shares) @ holds[group]))
        place[group] = share
        filled[share] += holds[group]
    rows = {name: np.flatnonzero(place[groups] == share) for share, name in enumerate(wanted)}
    if empty := [name for name, own in rows.items() if not len(own)]:
        raise UserError(
            f"the column group has {len(names)} group(s), which leaves none for {' and '.join(empty)}; "
            "give more groups, or a column `split`"
        )
    return rows


def apportion(fraction: float, sizes: np.ndarray) -> np.ndarray:
    """Whole rows of each class, nearest to `fraction` of it while their sum is that of all (largest remainders)."""
    exact = fraction * sizes
    counts: np.ndarray = np.floor(exact).astype(np.int64)
    missing = round(fraction * int(sizes.sum())) - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:missing]] += 1
    return counts
