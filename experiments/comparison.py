"""Significance tests of the difference between two models, by their predictions for the same rows."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, wilcoxon

RESAMPLES = 100_000
MAX_ROWS = 50_000_000  # in all resamples of errors together
MAX_ROWS_AT_ONCE = 1_000_000
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
    """State whether a difference is significant."""
    if p_value >= ALPHA:
        return "no significant difference"
    return "significantly better" if better else "significantly worse"


def paired(base_correct: np.ndarray, this_correct: np.ndarray) -> Paired:
    """Compare two classifiers row by row.

    The p-value is that of McNemar's exact test (McNemar 1947): how often a fair coin would divide the rows that only
    one side got right as unevenly. The interval is the percentile bootstrap (Efron 1979). Resampling rows with
    replacement draws from a multinomial distribution of three outcomes, so that no row has to be touched.

    Args:
        base_correct: (N,) bool, whether the base is right.
        this_correct: (N,) bool, the same of the other.
    """
    rows = len(base_correct)
    only_base = int((base_correct & ~this_correct).sum())
    only_this = int((this_correct & ~base_correct).sum())
    discordant = only_base + only_this
    p_value = float(binomtest(only_this, discordant, 0.5).pvalue) if discordant else 1.0
    shares = np.array([only_base, only_this, rows - discordant]) / rows
    resampled = np.random.default_rng(0).multinomial(rows, shares, size=RESAMPLES)
    low, high = np.quantile((resampled[:, 1] - resampled[:, 0]) / rows, [ALPHA / 2, 1 - ALPHA / 2])
    return Paired(rows, only_base, only_this, p_value, float(low), float(high))


def paired_errors(base: np.ndarray, this: np.ndarray) -> PairedErrors:
    """Compare two regressions row by row, by the change of each absolute error.

    The p-value is that of Wilcoxon's signed-rank test (Wilcoxon 1945): whether the changes are symmetric around 0. The
    interval is the percentile bootstrap of their mean (Efron 1979), with fewer resamples if there are many rows.

    Args:
        base: (N,) float64, absolute errors of the base.
        this: (N,) float64, those of the other on the same rows.
    """
    change = this - base
    if not change.any():
        return PairedErrors(len(change), 0.0, 1.0, 0.0, 0.0)
    random = np.random.default_rng(0)
    resamples = max(1000, min(10_000, MAX_ROWS // len(change)))
    at_once = max(1, MAX_ROWS_AT_ONCE // len(change))
    means = np.concatenate(
        [
            change[random.integers(0, len(change), (min(at_once, resamples - start), len(change)))].mean(1)
            for start in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [ALPHA / 2, 1 - ALPHA / 2])
    return PairedErrors(len(change), float(change.mean()), float(wilcoxon(change).pvalue), float(low), float(high))
