"""Metrics of predictions: NumPy arrays in, plain numbers out."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def mean(values: Iterable[float]) -> float:
    """Return the mean, from a sum that is rounded once: NumPy's depends on the order in which it adds."""
    values = [*values]
    return math.fsum(values) / len(values)


def accuracy_interval(correct: int, rows: int) -> tuple[float, float]:
    """Compute the 95 % Wilson score interval (Wilson 1927) of an accuracy of `correct` out of `rows`.

    `scipy.stats.binomtest` gives the same to within 2e-16, but takes half a second to import, a third of the time of
    `import torch`.
    """
    share, z = correct / rows, Z_95
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return centre - half, centre + half


def macro_f1(actual: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Compute the unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN).

    Args:
        actual: (N,) class numbers.
        predicted: (N,) class numbers.
        classes: number of classes; one without rows in `actual` and in `predicted` is left out.
    """
    hits = np.bincount(actual[actual == predicted], minlength=classes)
    both = np.bincount(actual, minlength=classes) + np.bincount(predicted, minlength=classes)
    seen = both > 0
    return mean(2 * hits[seen] / both[seen])


def by_class(actual: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Compute images, recall, precision, F1 and the most frequent wrong prediction of each class.

    Args:
        actual: (N,) class numbers.
        predicted: (N,) class numbers.
        names: of the classes.

    Returns:
        A row per class. Recall is NaN for a class without rows in `actual`, precision for one without in `predicted`.
    """
    rows = []
    for number, name in enumerate(names):
        is_actual, is_predicted = actual == number, predicted == number
        hits = int((is_actual & is_predicted).sum())
        wrong = np.bincount(predicted[is_actual & ~is_predicted], minlength=len(names))
        both = is_actual.sum() + is_predicted.sum()
        rows.append(
            {
                "class": name,
                "images": int(is_actual.sum()),
                "recall": hits / is_actual.sum() if is_actual.any() else math.nan,
                "precision": hits / is_predicted.sum() if is_predicted.any() else math.nan,
                "f1": 2 * hits / both if both else math.nan,
                "taken_for": names[int(wrong.argmax())] if wrong.any() else "",
                "times": int(wrong.max()),
            }
        )
    return rows


def confused_pairs(actual: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[tuple[str, int]]:
    """Count the images of each class that were taken for each other class: most frequent first, then by class number.

    Args:
        actual: (N,) class numbers.
        predicted: (N,) class numbers.
        names: of the classes.
    """
    wrong = actual != predicted
    pairs, counts = np.unique(actual[wrong] * len(names) + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        (f"{names[pairs[at] // len(names)]} taken for {names[pairs[at] % len(names)]}", int(counts[at])) for at in order
    ]


def top_k_correct(probabilities: np.ndarray, actual: np.ndarray, k: int) -> int:
    """Count the rows whose class is among the `k` most probable ones. Classes tied with it count as more probable.

    Args:
        probabilities: (N, classes).
        actual: (N,) class numbers.
        k: number of classes.
    """
    of_actual = probabilities[np.arange(len(actual)), actual]
    return int(((probabilities >= of_actual[:, None]).sum(1) <= k).sum())


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int) -> list[dict[str, float]]:
    """Compare confidence with accuracy in bins of confidence.

    Args:
        confidence: (N,) probability of the predicted class.
        correct: (N,) bool.
        bins: number of equally wide bins between 0 and 1; a bin includes its upper end, not its lower.

    Returns:
        A row per non-empty bin: mean confidence, accuracy, rows.
    """
    numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    table = []
    for number in np.unique(numbers):
        inside = numbers == number
        table.append(
            {
                "confidence": mean(confidence[inside]),
                "accuracy": mean(correct[inside]),
                "rows": int(inside.sum()),
            }
        )
    return table


def calibration_error(table: list[dict[str, float]]) -> float:
    """Compute the expected calibration error (Guo et al. 2017): the mean gap of confidence and accuracy over rows."""
    rows = sum(row["rows"] for row in table)
    return math.fsum(row["rows"] * abs(row["confidence"] - row["accuracy"]) for row in table) / rows


def regression(actual: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Compute MAE and RMSE, in the quantity's unit, and R2, of (N,) float64.

    R2 is 0 if all actual values are equal.
    """
    residual = predicted - actual
    squares = mean(residual * residual)
    spread = mean((actual - mean(actual)) ** 2) if actual.min() != actual.max() else 0.0
    return {
        "mae": mean(np.abs(residual)),
        "rmse": math.sqrt(squares),
        "r2": 1 - squares / spread if spread else 0.0,
    }


def histogram(values: np.ndarray, max_bins: int) -> list[tuple[float, float, int]]:
    """Count values in equally wide bins, whose width is 1, 2 or 5 times a power of ten.

    Args:
        values: (N,) float64.
        max_bins: number of bins, at most, empty ones included.

    Returns:
        Lower end, which is in the bin, upper end, which is not, and count of each bin.
    """
    spread = float(values.max() - values.min()) or 1.0
    exponent = math.floor(math.log10(spread / max_bins))
    for factor in (1, 2, 5, 10, 20):
        width = factor * 10.0**exponent
        first, last = math.floor(values.min() / width), math.floor(values.max() / width)
        if last - first < max_bins:
            break
    numbers = np.clip(np.floor(values / width) - first, 0, last - first).astype(np.int64)
    counts = np.bincount(numbers, minlength=last - first + 1)
    return [((first + at) * width, (first + at + 1) * width, int(count)) for at, count in enumerate(counts)]
