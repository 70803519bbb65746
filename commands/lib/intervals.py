"""95 % confidence intervals of metrics, for the model card."""

import math

import numpy as np
from scipy.stats import bootstrap

from stages.lib.reporting.metrics import Z_95, macro_f1

RESAMPLES = 1000
MAX_ROWS_AT_ONCE = 1_000_000  # resampled rows in memory


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """Compute the interval of the mean of (N,) values by the normal approximation; NaN for a single value.

    `scipy.stats.norm.interval` gives the same, except for equal values: there it gives NaN and warns.
    """
    half = Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()) - half, float(values.mean()) + half


def macro_f1_interval(actual: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, float]:
    """Compute the interval of `macro_f1` by the percentile bootstrap over rows (Efron 1979).

    Args:
        actual: (N,) class numbers, N > 1.
        predicted: (N,) class numbers.
        classes: number of classes.
    """
    interval = bootstrap(
        (actual, predicted),
        lambda actual_rows, predicted_rows: macro_f1(actual_rows, predicted_rows, classes),
        paired=True,
        vectorized=False,
        n_resamples=RESAMPLES,
        batch=max(1, MAX_ROWS_AT_ONCE // len(actual)),
        method="percentile",
        rng=0,
    ).confidence_interval
    return float(interval.low), float(interval.high)


def regression_intervals(actual: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
    """Compute the intervals of `metrics.regression` by the normal approximation; that of R2 by the delta method.

    Args:
        actual: (N,) float64.
        predicted: (N,) float64.

    Returns:
        Metric -> interval; NaN for R2 if all actual values are equal.
    """
    square, spread = (predicted - actual) ** 2, (actual - actual.mean()) ** 2
    low, high = mean_interval(square)
    r2 = (math.nan, math.nan)
    if actual.min() != actual.max():
        ratio = square.mean() / spread.mean()
        r2 = mean_interval(1 - ratio - (square - ratio * spread) / spread.mean())
    return {"mae": mean_interval(np.sqrt(square)), "rmse": (math.sqrt(max(0, low)), math.sqrt(high)), "r2": r2}
