"""Is the difference between two models real? The statistics of two sets of predictions for the same rows."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, wilcoxon

DRAWS = 100_000
MOST_DRAWN = 50_000_000  # rows in all draws together
MOST_AT_ONCE = 1_000_000
ALPHA = 0.05


@dataclass(frozen=True)
class Paired:
    """Two classifiers on the same rows."""

    rows: int
    only_base: int  # rows that the base alone got right
    only_this: int  # rows that the other alone got right
    p_value: float
    low: float  # 95 % interval of the difference of their accuracies
    high: float

    @property
    def difference(self) -> float:
        """How much more accurate than the base: a share of all rows."""
        return (self.only_this - self.only_base) / self.rows

    def __str__(self) -> str:
        """For a reviewer, in percentage points."""
        return (
            f"{self.difference * 100:+.2f} points, 95 % interval {self.low * 100:+.2f} to {self.high * 100:+.2f}: "
            f"{verdict(self.p_value, better=self.difference > 0)} on {self.rows:,} images"
        )


@dataclass(frozen=True)
class PairedErrors:
    """Two regressions on the same rows."""

    rows: int
    difference: float  # of their mean absolute errors, in the quantity's own unit
    p_value: float
    low: float  # 95 % interval of the difference
    high: float

    def __str__(self) -> str:
        """For a reviewer."""
        return (
            f"{self.difference:+.4g}, 95 % interval {self.low:+.4g} to {self.high:+.4g}: "
            f"{verdict(self.p_value, better=self.difference < 0)} on {self.rows:,} images"
        )


def verdict(p_value: float, *, better: bool) -> str:
    """What a p-value says."""
    if p_value >= ALPHA:
        return "no significant difference"
    return "significantly better" if better else "significantly worse"


def paired(base_correct: np.ndarray, this_correct: np.ndarray) -> Paired:
    """Compare row by row.

    Only rows that one side alone got right tell the two apart. McNemar's exact test (McNemar 1947) asks how often a
    fair coin would divide them as unevenly. The interval is the percentile bootstrap (Efron 1979); rows drawn anew,
    with replacement, are a draw from a multinomial distribution of three outcomes, so that no row has to be touched.

    Args:
        base_correct: (N,) bool, whether the base is right.
        this_correct: (N,) bool, of the same rows.
    """
    rows = len(base_correct)
    only_base = int((base_correct & ~this_correct).sum())
    only_this = int((this_correct & ~base_correct).sum())
    discordant = only_base + only_this
    p_value = float(binomtest(only_this, discordant, 0.5).pvalue) if discordant else 1.0
    shares = np.array([only_base, only_this, rows - discordant]) / rows
    drawn = np.random.default_rng(0).multinomial(rows, shares, size=DRAWS)
    low, high = np.quantile((drawn[:, 1] - drawn[:, 0]) / rows, [ALPHA / 2, 1 - ALPHA / 2])
    return Paired(rows, only_base, only_this, p_value, float(low), float(high))


def paired_errors(base: np.ndarray, this: np.ndarray) -> PairedErrors:
    """Compare row by row, by how much smaller or larger each error has become.

    Wilcoxon's signed-rank test (Wilcoxon 1945) asks whether the changes lie evenly around 0. The interval is the
    percentile bootstrap of their mean (Efron 1979), of fewer draws where the rows are many.

    Args:
        base: (N,) float64, absolute errors.
        this: (N,) float64, of the same rows.
    """
    change = this - base
    if not change.any():
        return PairedErrors(len(change), 0.0, 1.0, 0.0, 0.0)
    random = np.random.default_rng(0)
    draws = max(1000, min(10_000, MOST_DRAWN // len(change)))
    at_once = max(1, MOST_AT_ONCE // len(change))
    means = np.concatenate(
        [
            change[random.integers(0, len(change), (min(at_once, draws - start), len(change)))].mean(1)
            for start in range(0, draws, at_once)
        ]
    )
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return PairedErrors(len(change), float(change.mean()), float(wilcoxon(change).pvalue), float(low), float(high))
