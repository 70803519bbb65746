"""Metrics, against scikit-learn, scipy and sums by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest, norm, sem
from sklearn.metrics import f1_score

from stages.lib.reporting import metrics
from stages.lib.reporting.metrics import accuracy_interval, calibration, calibration_error, macro_f1


@pytest.mark.parametrize(("correct", "rows"), [(0, 10), (10, 10), (923, 1000), (9540, 10_000)])
def test_the_interval_is_wilsons(correct: int, rows: int) -> None:
    expected = binomtest(correct, rows).proportion_ci(0.95, method="wilson")
    assert accuracy_interval(correct, rows) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_macro_f1_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    actual, predicted = random.integers(0, 7, 500), random.integers(0, 7, 500)
    assert macro_f1(actual, predicted, 9) == pytest.approx(f1_score(actual, predicted, average="macro"))


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=500)
    expected = norm.interval(0.95, values.mean(), sem(values))
    assert metrics.mean_interval(values) == pytest.approx(expected, abs=1e-12)


def test_the_interval_of_macro_f1_is_that_of_rows_drawn_anew() -> None:
    random = np.random.default_rng(0)
    actual = random.integers(0, 5, 400)
    predicted = np.where(random.random(400) < 0.7, actual, random.integers(0, 5, 400))
    drawn = (random.integers(0, 400, 400) for _ in range(2000))
    expected = np.quantile([macro_f1(actual[rows], predicted[rows], 5) for rows in drawn], [0.025, 0.975])
    found = metrics.macro_f1_interval(actual, predicted, 5)
    assert found == pytest.approx(tuple(expected), abs=0.006)
    assert found == metrics.macro_f1_interval(actual, predicted, 5), "the same numbers each time"


def test_the_intervals_of_a_regression_hold_the_truth_in_19_of_20_samples() -> None:
    random = np.random.default_rng(0)
    held = dict.fromkeys(("mae", "rmse", "r2"), 0)
    truth = {"mae": np.sqrt(2 / np.pi), "rmse": 1.0, "r2": 0.8}
    for _ in range(400):
        actual = random.normal(0, np.sqrt(5), 300)
        for name, (low, high) in metrics.regression_intervals(actual, actual + random.normal(0, 1, 300)).items():
            held[name] += low <= truth[name] <= high
    assert all(0.92 < times / 400 < 0.98 for times in held.values()), held


def test_a_regression_of_a_constant_has_no_r2() -> None:
    found = metrics.regression_intervals(np.full(200, 0.3), np.random.default_rng(0).normal(size=200))
    assert np.isnan(found["r2"]).all()
    assert np.isfinite([*found["mae"], *found["rmse"]]).all()


def test_macro_f1_of_a_class_never_predicted() -> None:
    assert macro_f1(np.array([0, 0, 1]), np.array([0, 0, 0]), 2) == pytest.approx((0.8 + 0) / 2)


def test_calibration_by_hand() -> None:
    confidence = np.array([0.2, 0.25, 0.5, 0.51, 0.9, 1.0])
    correct = np.array([False, True, True, False, True, True])
    table = calibration(confidence, correct, 2)
    assert [row["rows"] for row in table] == [3, 3]  # 0.5 belongs to the lower bin
    assert [row["accuracy"] for row in table] == pytest.approx([2 / 3, 2 / 3])
    assert [row["confidence"] for row in table] == pytest.approx([0.95 / 3, 2.41 / 3])
    assert calibration_error(table) == pytest.approx(((2 - 0.95) + (2.41 - 2)) / 6)


def test_a_calibrated_classifier_has_no_error() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0, 1, 200_000)
    correct = random.uniform(0, 1, 200_000) < confidence
    assert calibration_error(calibration(confidence, correct, 15)) < 0.01


def test_each_class_by_itself() -> None:
    actual = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 1, 1, 1, 1, 0])
    cat, dog, cow, hen = metrics.by_class(actual, predicted, ["cat", "dog", "cow", "hen"])
    assert cat == {
        **{"class": "cat", "images": 3, "recall": 1 / 3, "precision": 0.5, "f1": 0.4},
        **{"taken_for": "dog", "times": 2},
    }
    assert (dog["recall"], dog["precision"], dog["f1"], dog["taken_for"], dog["times"]) == (1.0, 0.5, 2 / 3, "", 0)
    assert (cow["recall"], cow["taken_for"]) == (0.0, "cat")
    assert np.isnan([cow["precision"], hen["recall"], hen["f1"]]).all()


def test_among_the_best_guesses() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.6, 0.2]])
    actual = np.array([0, 1, 2])
    assert [metrics.among_best(probabilities, actual, best) for best in (1, 2, 3)] == [1, 2, 3]
    assert metrics.among_best(np.full((3, 3), 1 / 3), actual, 1) == 0, "a tie is no answer"
