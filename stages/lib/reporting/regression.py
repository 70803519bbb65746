"""Evaluation of a regression, in the units of its quantities."""

from collections.abc import Iterable
from itertools import cycle, islice
from typing import Any

import numpy as np
from torch import Tensor

from stages.lib.model import tasks
from stages.lib.model.tensors import Split
from stages.lib.reporting import metrics
from stages.lib.reporting.results import Evaluation, Mistake, Table

MAX_BINS = 30  # of a histogram of residuals
NO_CLASSES: Table = {name: [] for name in ("class", "images", "recall", "precision", "f1", "taken_for", "times")}
NO_CONFIDENCE: Table = {name: [] for name in ("confidence", "accuracy", "rows")}


def evaluate(outputs: Iterable[tuple[slice, Tensor]], split: Split, *, max_mistakes: int) -> Evaluation:
    """Compute the errors of each quantity, their distribution, and the images with the largest ones.

    Args:
        outputs: batches that cover all rows: rows, and standardized quantities (n, quantities) float64.
        split: its targets are (N, quantities) float64, in their units.
        max_mistakes: number of the largest errors to return, at most.
    """
    quantities = split.description.quantities
    names = [quantity.name for quantity in quantities]
    actual = split.targets.numpy()
    predicted = np.empty_like(actual)
    for rows, batch in outputs:
        predicted[rows] = tasks.in_original_units(batch, split.description).numpy()
    by_quantity = {
        name: metrics.regression(actual[:, column], predicted[:, column]) for column, name in enumerate(names)
    }
    r2 = metrics.mean([each["r2"] for each in by_quantity.values()])
    scores: dict[str, Any] = by_quantity[names[0]] if len(names) == 1 else {"r2": r2, **by_quantity}

    residual = predicted - actual
    in_stds = np.abs(residual / [quantity.std for quantity in quantities]).max(1)  # (N,): the worst quantity's
    largest = np.argsort(-in_stds, kind="stable")[:max_mistakes].tolist()
    mistakes = [
        Mistake(
            row=row,
            index=int(split.index[row]),
            file=split.files[row] if split.files else None,
            actual=", ".join(f"{value:.4g}" for value in actual[row]),
            predicted=", ".join(f"{value:.4g}" for value in predicted[row]),
            confidence=None,
        )
        for row in largest
    ]
    predictions: Table = {"index": np.repeat(split.index.numpy(), len(names))}
    if split.files:
        predictions["file"] = [file for file in split.files for _ in names]
    predictions["quantity"] = islice(cycle(names), actual.size)
    predictions["actual"] = rounded(actual)
    predictions["predicted"] = rounded(predicted)
    predictions["residual"] = rounded(residual)
    bins = [
        (f"{name + ' ' if len(names) > 1 else ''}{low:.10g} to {high:.10g}", count)
        for column, name in enumerate(names)
        for low, high, count in metrics.histogram(residual[:, column], MAX_BINS)
    ]
    errors = "; ".join(
        f"{name}: MAE {each['mae']:.4g}, RMSE {each['rmse']:.4g}, R2 {each['r2']:.4f}"
        for name, each in by_quantity.items()
    )
    return Evaluation(
        actual=actual,
        predicted=predicted,
        losses=np.empty(0),
        metrics={**scores, "rows": len(actual)},
        predictions=predictions,
        errors={"error": [error for error, _ in bins], "images": [images for _, images in bins]},
        classes=NO_CLASSES,
        calibration=NO_CONFIDENCE,
        mistakes=mistakes,
        summary=f"{errors}, on {len(actual):,} test images",
    )


def rounded(values: np.ndarray) -> Iterable[float]:
    """Round (N, quantities) to nine significant digits, more than float32 has; row by row."""
    return (float(f"{value:.9g}") for value in values.flat)
