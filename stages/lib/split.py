"""Dividing labelled rows into train, val and test: stratified, seeded, and stable for good.

Every class is divided by itself. Which of its rows go where follows from the raw 64-bit stream of PCG64, which NumPy
promises to keep (NEP 19); `Generator.permutation` and its like may change between versions.
"""

from collections.abc import Mapping

import numpy as np

from stages.lib.stage import UserError


def stratified(targets: np.ndarray, fractions: Mapping[str, float], *, seed: int) -> dict[str, np.ndarray]:
    """Row numbers of each named share, and of the rest under "train".

    Args:
        targets: (N,) class numbers.
        fractions: name of a share -> its fraction of every class, rounded to whole rows.
        seed: of the choice of rows.

    Returns:
        name -> row numbers, int64, ascending; together they are every row once.

    Raises:
        UserError: a class would have no row in one of them.
    """
    keys = np.random.PCG64(seed).random_raw(len(targets))
    chosen: dict[str, list[np.ndarray]] = {name: [] for name in [*fractions, "train"]}
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        rows = rows[np.argsort(keys[rows], kind="stable")]
        counts = {name: round(fraction * len(rows)) for name, fraction in fractions.items()}
        counts["train"] = len(rows) - sum(counts.values())
        for name, count in counts.items():
            if count < 1:
                shares = ", ".join(f"{share}_fraction {fraction:g}" for share, fraction in fractions.items())
                raise UserError(
                    f"params.yaml: {shares}: class number {label} has {len(rows)} rows, which leaves none for {name}; "
                    "choose fractions that leave every class a row in each split"
                )
        ends = np.cumsum(list(counts.values()))
        for (name, count), end in zip(counts.items(), ends, strict=True):
            chosen[name].append(rows[end - count : end])
    return {name: np.sort(np.concatenate(rows)) for name, rows in chosen.items()}
