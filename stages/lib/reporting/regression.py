"""How a regression does on the test split, in the quantities' own units."""

from collections.abc import Iterable, Sequence
from itertools import cycle, islice

import numpy as np
from torch import Tensor

from stages.lib.model import tasks
from stages.lib.reporting import metrics
from stages.lib.reporting.evaluation import Judgement, Mistake, Table
from stages.lib.splits.description import DataDescription

MOST_BINS = 30  # of residuals
NO_CLASSES: Table = {name: [] for name in ("class", "images", "recall", "precision", "f1", "taken_for", "times")}
NO_CONFIDENCE: Table = {name: [] for name in ("confidence", "accuracy", "rows")}


def judge(
    outputs: Iterable[tuple[slice, Tensor]],
    targets: Tensor,
    index: np.ndarray,
    data: DataDescription,
    *,
    files: Sequence[str] | None = None,
    most: int,
) -> Judgement:
    """Errors of every quantity: their mean, their distribution, and the images with the largest.

    Args:
        outputs: some rows at a time, until all are done, and (n, quantities) float64, standardized.
        targets: (N, quantities) float64, in their own units.
        index: (N,) int64, rows of the source.
        data: what the model knows of its data.
        files: N paths below the source, if it has a file per image.
        most: how many of the largest errors are to be shown.
    """
    actual = targets.numpy()
    predicted = np.empty_like(actual)
    for rows, some in outputs:
        predicted[rows] = tasks.in_original_units(some, data).numpy()
    names = [quantity.name for quantity in data.quantities]
    columns = {name: metrics.regression(actual[:, at], predicted[:, at]) for at, name in enumerate(names)}
    r2 = float(np.mean([figures["r2"] for figures in columns.values()]))
    figures = {**(columns[names[0]] if len(names) == 1 else {"r2": r2, **columns}), "rows": len(actual)}

    residual = predicted - actual
    size = np.abs(residual / [quantity.std for quantity in data.quantities]).max(1)  # in standard deviations
    worst = np.argsort(-size, kind="stable")[:most].tolist()
    mistakes = [
        Mistake(
            row=row,
            index=int(index[row]),
            file=files[row] if files else None,
            actual=", ".join(f"{value:.4g}" for value in actual[row]),
            predicted=", ".join(f"{value:.4g}" for value in predicted[row]),
            confidence=None,
        )
        for row in worst
    ]
    errors = [
        (f"{name + ' ' if len(names) > 1 else ''}{low:.10g} to {high:.10g}", count)
        for at, name in enumerate(names)
        for low, high, count in metrics.histogram(residual[:, at], MOST_BINS)
    ]
    told = "; ".join(
        f"{name}: MAE {found['mae']:.4g}, RMSE {found['rmse']:.4g}, R2 {found['r2']:.4f}"
        for name, found in columns.items()
    )
    return Judgement(
        actual=actual,
        predicted=predicted,
        losses=np.empty(0),
        figures=figures,
        predictions={
            "index": np.repeat(index, len(names)),
            **({"file": (file for file in files for _ in names)} if files else {}),
            "quantity": islice(cycle(names), actual.size),
            "actual": rounded(actual),
            "predicted": rounded(predicted),
            "residual": rounded(residual),
        },
        errors={"error": [error for error, _ in errors], "images": [images for _, images in errors]},
        classes=NO_CLASSES,
        calibration=NO_CONFIDENCE,
        mistakes=mistakes,
        sentence=f"{told}, on {len(actual):,} test images",
    )


def rounded(values: np.ndarray) -> Iterable[float]:
    """(N, quantities) row by row, to nine significant digits: more than float32 has."""
    return (float(f"{value:.9g}") for value in values.flat)
