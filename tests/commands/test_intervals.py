"""Confidence intervals of the model card, compared with scipy, resampling and known distributions."""

import numpy as np
import pytest
from scipy.stats import norm, sem

from commands.lib.intervals import macro_f1_interval, mean_interval, regression_intervals
from stages.lib.reporting.metrics import macro_f1


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=500)
    expected = norm.interval(0.95, values.mean(), sem(values))
    assert mean_interval(values) == pytest.approx(expected, rel=1e-15)


def test_the_interval_of_equal_values_is_empty_and_of_one_value_undefined() -> None:
    assert mean_interval(np.full(5, 0.5)) == (0.5, 0.5)
    assert np.isnan(mean_interval(np.array([0.5]))).all()


def test_the_interval_of_macro_f1_is_that_of_resampled_rows() -> None:
    random = np.random.default_rng(0)
    actual = random.integers(0, 5, 400)
    predicted = np.where(random.random(400) < 0.7, actual, random.integers(0, 5, 400))
    resamples = (random.integers(0, 400, 400) for _ in range(2000))
    expected = np.quantile([macro_f1(actual[rows], predicted[rows], 5) for rows in resamples], [0.025, 0.975])
    interval = macro_f1_interval(actual, predicted, 5)
    assert interval == pytest.approx(tuple(expected), abs=0.006)
    assert interval == macro_f1_interval(actual, predicted, 5), "the same numbers each time"


def test_the_intervals_of_a_regression_hold_the_truth_in_19_of_20_samples() -> None:
    random = np.random.default_rng(0)
    hits = dict.fromkeys(("mae", "rmse", "r2"), 0)
    truth = {"mae": np.sqrt(2 / np.pi), "rmse": 1.0, "r2": 0.8}
    for _ in range(400):
        actual = random.normal(0, np.sqrt(5), 300)
        for name, (low, high) in regression_intervals(actual, actual + random.normal(0, 1, 300)).items():
            hits[name] += low <= truth[name] <= high
    assert all(0.92 < count / 400 < 0.98 for count in hits.values()), hits


def test_the_r2_of_a_constant_has_no_interval() -> None:
    intervals = regression_intervals(np.full(200, 0.3), np.random.default_rng(0).normal(size=200))
    assert np.isnan(intervals["r2"]).all()
    assert np.isfinite([*intervals["mae"], *intervals["rmse"]]).all()
