"""Is the difference between two classifiers real? The statistics of two sets of predictions for the same rows."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

DRAWS = 100_000
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
        verdict = "not told apart from chance"
        if self.p_value < ALPHA:
            verdict = "better than chance explains" if self.difference > 0 else "worse than chance explains"
        return (
            f"{self.difference * 100:+.2f} points, 95 % interval {self.low * 100:+.2f} to {self.high * 100:+.2f}: "
            f"{verdict} on {self.rows:,} images"
        )


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
