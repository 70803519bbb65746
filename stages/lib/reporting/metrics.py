"""How well a model does, from its predictions: NumPy arrays in, plain numbers out."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Z_95 = 1.959963984540054  # the normal distribution's 97.5 % point
RESAMPLES = 1000  # of a bootstrap


def accuracy_interval(correct: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of an accuracy of `correct` out of `rows`, by Wilson's score (Wilson 1927)."""
    share, z = correct / rows, Z_95
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows)) / (1 + z * z / rows)
    return centre - half, centre + half


def mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean of many values, (N,), by the normal distribution."""
    half = Z_95 * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()) - half, float(values.mean()) + half


def macro_f1(actual: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """The mean over classes of F1 = 2 TP / (2 TP + FP + FN), every class with the same weight.

    Args:
        actual: (N,) class numbers.
        predicted: (N,) class numbers.
        classes: number of classes; one that is neither actual nor predicted anywhere is left out.
    """
    return _macro_f1(actual, predicted, np.ones(len(actual), np.int64), classes)


def macro_f1_interval(actual: np.ndarray, predicted: np.ndarray, classes: int) -> tuple[float, float]:
    """The 95 % interval of `macro_f1` by the bootstrap: from as many rows drawn with replacement, RESAMPLES times."""
    pairs, counts = np.unique(actual * classes + predicted, return_counts=True)
    random = np.random.default_rng(0)
    drawn = (random.multinomial(len(actual), counts / len(actual)) for _ in range(RESAMPLES))
    found = [_macro_f1(pairs // classes, pairs % classes, times, classes) for times in drawn]
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


def _macro_f1(actual: np.ndarray, predicted: np.ndarray, times: np.ndarray, classes: int) -> float:
    """Of pairs of an actual and a predicted class, each of which stands for so many rows."""

    def rows_of(classes_of: np.ndarray, some: np.ndarray | slice = slice(None)) -> np.ndarray:
        return np.bincount(classes_of[some], times[some], classes)

    hits = rows_of(actual, actual == predicted)
    both = rows_of(actual) + rows_of(predicted)
    seen = both > 0
    return float(np.mean(2 * hits[seen] / both[seen]))


def by_class(actual: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """A row per class: its name, images, recall, precision and F1, and what its images were most often taken for.

    Args:
        actual: (N,) class numbers.
        predicted: (N,) class numbers.
        names: of the classes.

    A class that is nowhere actual has no recall, one that is never predicted no precision: NaN.
    """
    rows = []
    for number, name in enumerate(names):
        mine, said = actual == number, predicted == number
        hits = int((mine & said).sum())
        wrong = np.bincount(predicted[mine & ~said], minlength=len(names))
        rows.append(
            {
                "class": name,
                "images": int(mine.sum()),
                "recall": hits / mine.sum() if mine.any() else math.nan,
                "precision": hits / said.sum() if said.any() else math.nan,
                "f1": 2 * hits / (mine.sum() + said.sum()) if mine.any() or said.any() else math.nan,
                "taken_for": names[int(wrong.argmax())] if wrong.any() else "",
                "times": int(wrong.max()),
            }
        )
    return rows


def confused_pairs(actual: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[tuple[str, int]]:
    """Which class was taken for which, and on how many images: the most frequent first, then in the classes' order.

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


def among_best(probabilities: np.ndarray, actual: np.ndarray, best: int) -> int:
    """On how many rows the class is among the `best` most probable ones, (N, classes), (N,). Ties count against it."""
    own = probabilities[np.arange(len(actual)), actual]
    return int(((probabilities >= own[:, None]).sum(1) <= best).sum())


def calibration(confidence: np.ndarray, correct: np.ndarray, bins: int) -> list[dict[str, float]]:
    """How often the classifier is right, by how sure it says it is.

    Args:
        confidence: (N,) probability of the predicted class.
        correct: (N,) bool.
        bins: number of equally wide bins between 0 and 1; a bin holds its upper end, not its lower.

    Returns:
        A row per bin that is not empty: rows, mean confidence, accuracy.
    """
    numbers = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    table = []
    for number in np.unique(numbers):
        inside = numbers == number
        table.append(
            {
                "confidence": float(confidence[inside].mean()),
                "accuracy": float(correct[inside].mean()),
                "rows": int(inside.sum()),
            }
        )
    return table


def calibration_error(table: list[dict[str, float]]) -> float:
    """Expected calibration error (Guo et al. 2017): the mean gap between confidence and accuracy, weighted by rows."""
    rows = sum(row["rows"] for row in table)
    return sum(row["rows"] * abs(row["confidence"] - row["accuracy"]) for row in table) / rows


def regression_intervals(actual: np.ndarray, predicted: np.ndarray) -> dict[str, tuple[float, float]]:
    """The 95 % intervals of what `regression` gives, by the normal distribution; of R2 with the delta method."""
    square, spread = (predicted - actual) ** 2, (actual - actual.mean()) ** 2
    low, high = mean_interval(square)
    r2 = (math.nan, math.nan)
    if actual.min() != actual.max():
        ratio = square.mean() / spread.mean()
        r2 = mean_interval(1 - ratio - (square - ratio * spread) / spread.mean())
    return {"mae": mean_interval(np.sqrt(square)), "rmse": (math.sqrt(max(0, low)), math.sqrt(high)), "r2": r2}


def regression(actual: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Mean absolute error and root mean square error, in the quantity's own unit, and R2: of two (N,) float64.

    R2 is 0 where every actual value is the same.
    """
    residual = predicted - actual
    spread = float(((actual - actual.mean()) ** 2).sum()) if actual.min() != actual.max() else 0.0
    return {
        "mae": float(np.abs(residual).mean()),
        "rmse": float(np.sqrt((residual**2).mean())),
        "r2": 1 - float((residual**2).sum()) / spread if spread else 0.0,
    }


def histogram(values: np.ndarray, most_bins: int) -> list[tuple[float, float, int]]:
    """Lower end, upper end and number of values of each bin: equally wide, by 1, 2 or 5 times a power of ten.

    Args:
        values: (N,) float64; a bin holds its lower end, not its upper.
        most_bins: how many there may be, empty ones included.
    """
    spread = float(values.max() - values.min()) or 1.0
    exponent = math.floor(math.log10(spread / most_bins))
    for factor in (1, 2, 5, 10, 20):
        width = factor * 10.0**exponent
        first, last = math.floor(values.min() / width), math.floor(values.max() / width)
        if last - first < most_bins:
            break
    numbers = np.clip(np.floor(values / width) - first, 0, last - first).astype(np.int64)
    counts = np.bincount(numbers, minlength=last - first + 1)
    return [((first + at) * width, (first + at + 1) * width, int(count)) for at, count in enumerate(counts)]
