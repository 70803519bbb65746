"""Metrics of a classifier, compared with scikit-learn, scipy and numbers worked out by hand."""

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import (
    f1_score,
    mean_absolute_error,
    precision_score,
    r2_score,
    recall_score,
    root_mean_squared_error,
    top_k_accuracy_score,
)

from stages.lib.reporting import metrics
from stages.lib.reporting.metrics import accuracy_interval, calibration, calibration_error, macro_f1


@pytest.mark.parametrize(("correct", "rows"), [(0, 10), (10, 10), (923, 1000), (9540, 10_000)])
def test_the_interval_of_the_accuracy_is_the_wilson_interval_of_scipy(correct: int, rows: int) -> None:
    expected = binomtest(correct, rows).proportion_ci(0.95, method="wilson")
    assert accuracy_interval(correct, rows) == pytest.approx((expected.low, expected.high), abs=1e-15)


def test_macro_f1_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    actual, predicted = random.integers(0, 7, 500), random.integers(0, 7, 500)
    assert macro_f1(actual, predicted, 9) == pytest.approx(f1_score(actual, predicted, average="macro"))


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


def test_a_calibrated_classifier_has_no_calibration_error() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0, 1, 200_000)
    correct = random.uniform(0, 1, 200_000) < confidence
    assert calibration_error(calibration(confidence, correct, 15)) < 0.01


def test_metrics_by_class() -> None:
    actual = np.array([0, 0, 0, 1, 1, 2])
    predicted = np.array([0, 1, 1, 1, 1, 0])
    cat, dog, cow, hen = metrics.by_class(actual, predicted, ["cat", "dog", "cow", "hen"])
    assert list(cat) == ["class", "images", "recall", "precision", "f1", "taken_for", "times"]
    assert list(cat.values()) == ["cat", 3, 1 / 3, 0.5, 0.4, "dog", 2]
    assert list(dog.values()) == ["dog", 2, 1.0, 0.5, 2 / 3, "", 0]
    assert (cow["recall"], cow["taken_for"]) == (0.0, "cat")
    assert np.isnan([cow["precision"], hen["recall"], hen["f1"]]).all()


def test_top_k_correct() -> None:
    probabilities = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7], [0.2, 0.6, 0.2]])
    actual = np.array([0, 1, 2])
    assert [metrics.top_k_correct(probabilities, actual, k) for k in (1, 2, 3)] == [1, 2, 3]
    assert metrics.top_k_correct(np.full((3, 3), 1 / 3), actual, 1) == 0, "a tie is a miss"


def test_metrics_of_random_predictions_are_those_of_scikit_learn_and_scipy() -> None:
    """Over sizes, numbers of classes, classes that are missing on either side, and ties."""
    random = np.random.default_rng(0)
    for _ in range(200):
        rows, classes = int(random.integers(1, 60)), int(random.integers(2, 7))
        actual, predicted = (
            random.integers(0, classes, rows),
            random.integers(0, int(random.integers(1, classes)) + 1, rows),
        )
        expected = f1_score(actual, predicted, average="macro")
        assert macro_f1(actual, predicted, classes + 2) == pytest.approx(expected)
        names = [str(number) for number in range(classes)]
        everything = {"labels": range(classes), "average": None, "zero_division": np.nan}
        for row, *of_class in zip(
            metrics.by_class(actual, predicted, names),
            recall_score(actual, predicted, **everything),
            precision_score(actual, predicted, **everything),
            strict=True,
        ):
            assert [row["recall"], row["precision"]] == pytest.approx(of_class, nan_ok=True)
        probabilities = random.dirichlet(np.ones(classes), rows)
        k = int(random.integers(1, classes))
        if classes > 2:
            hits = top_k_accuracy_score(actual, probabilities, k=k, labels=range(classes), normalize=False)
            assert metrics.top_k_correct(probabilities, actual, k) == hits
        values, guesses = random.normal(3, 2, rows), random.normal(3, 2, rows)
        found = metrics.regression(values, guesses)
        assert found["mae"] == pytest.approx(mean_absolute_error(values, guesses))
        assert found["rmse"] == pytest.approx(root_mean_squared_error(values, guesses))
        assert rows < 2 or found["r2"] == pytest.approx(r2_score(values, guesses))
