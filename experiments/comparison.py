"""Significance tests of the difference between two models, by their predictions for the same rows."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, ttest_1samp

ALPHA = 0.05  # significance level


@dataclass(frozen=True)
class Paired:
    """The comparison of two classifiers on the same rows."""

    rows: int
    only_base: int  # rows that only the base got right
    only_this: int  # rows that only the other got right
    p_value: float
    low: float  # 95 % interval of the difference in accuracy
    high: float

    @property
    def difference(self) -> float:
        """The accuracy minus that of the base."""
        return (self.only_this - self.only_base) / self.rows

    def __str__(self) -> str:
        """One sentence, in percentage points."""
        return (
            f"{self.difference * 100:+.2f} points, 95 % interval {self.low * 100:+.2f} to {self.high * 100:+.2f}: "
            f"{verdict(self.p_value, better=self.difference > 0)} ({self.rows:,} test images)"
        )


@dataclass(frozen=True)
class PairedErrors:
    """The comparison of two regressions on the same rows."""

    rows: int
    difference: float  # in mean absolute error, in the unit of the quantity
    p_value: float
    low: float  # 95 % interval of the difference
    high: float

    def __str__(self) -> str:
        """One sentence, in the unit of the quantity."""
        return (
            f"{self.difference:+.4g}, 95 % interval {self.low:+.4g} to {self.high:+.4g}: "
            f"{verdict(self.p_value, better=self.difference < 0)} ({self.rows:,} test images)"
        )


def verdict(p_value: float, *, better: bool) -> str:
    """State whether a difference is significant; its interval then excludes 0, and only then."""
    if p_value >= ALPHA:
        return "no significant difference"
    return "significantly better" if better else "significantly worse"


def paired(base_correct: np.ndarray, this_correct: np.ndarray) -> Paired:
    """Compare two classifiers row by row.

    The p-value is that of McNemar's exact test (McNemar 1947): how often a fair coin would divide the rows that only
    one side got right as unevenly. The interval is that of Clopper and Pearson (1934) for this coin, times the share of
    these rows: the differences that the same test does not reject.

    Args:
        base_correct: (N,) bool, whether the base is right.
        this_correct: (N,) bool, the same of the other.
    """
    rows = len(base_correct)
    only_base = int((base_correct & ~this_correct).sum())
    only_this = int((this_correct & ~base_correct).sum())
    discordant = only_base + only_this
    if not discordant:
        return Paired(rows, 0, 0, 1.0, 0.0, 0.0)
    test = binomtest(only_this, discordant, 0.5)
    interval = test.proportion_ci(1 - ALPHA, method="exact")
    low, high = ((2 * float(share) - 1) * discordant / rows for share in (interval.low, interval.high))
    return Paired(rows, only_base, only_this, float(test.pvalue), low, high)


def paired_errors(base: np.ndarray, this: np.ndarray) -> PairedErrors:
    """Compare two regressions row by row, by the change of each absolute error.

    The p-value is that of the paired t-test of the mean change (Student 1908); the interval holds the means that it
    does not reject.

    Args:
        base: (N,) float64, absolute errors of the base.
        this: (N,) float64, those of the other on the same rows.
    """
    change = this - base
    mean = float(change.mean())
    if len(change) < 2 or change.min() == change.max():  # no spread to judge by
        p_value = 0.0 if mean and len(change) > 1 else 1.0
        return PairedErrors(len(change), mean, p_value, mean, mean)
    test = ttest_1samp(change, 0.0)
    interval = test.confidence_interval(1 - ALPHA)
    return PairedErrors(len(change), mean, float(test.pvalue), float(interval.low), float(interval.high))
