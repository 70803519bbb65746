"""How a classifier does on the test split."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.lib.reporting import metrics
from stages.lib.reporting.evaluation import Judgement, Mistake, Table
from stages.lib.splits.description import DataDescription

MANY_CLASSES = 20  # from which on the accuracy of the five best guesses is told as well
MOST_PAIRS = 30  # of classes that are confused


def judge(
    outputs: Iterable[tuple[slice, Tensor]],
    targets: Tensor,
    index: np.ndarray,
    data: DataDescription,
    *,
    files: Sequence[str] | None = None,
    bins: int,
    most: int,
) -> Judgement:
    """Accuracy, calibration, and what is confused with what.

    Args:
        outputs: some rows at a time, until all are done, and their logits (n, classes) float64.
        targets: (N,) int64, class numbers.
        index: (N,) int64, rows of the source.
        data: what the model knows of its data.
        files: N paths below the source, if it has a file per image.
        bins: of confidence between 0 and 1.
        most: how many of the most confident mistakes are to be shown.
    """
    actual = targets.numpy()
    predicted, confidence = np.empty_like(actual), np.empty(len(actual))
    losses, among_best = np.empty(len(actual)), 0
    for rows, logits in outputs:
        probabilities = logits.softmax(1).numpy()
        predicted[rows], confidence[rows] = probabilities.argmax(1), probabilities.max(1)
        losses[rows] = cross_entropy(logits, targets[rows], reduction="none").numpy()
        among_best += metrics.among_best(probabilities, actual[rows], 5)
    correct = actual == predicted
    calibration = metrics.calibration(confidence, correct, bins)
    low, high = metrics.accuracy_interval(int(correct.sum()), len(correct))
    figures = {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "cross_entropy": float(losses.mean()),
        "macro_f1": metrics.macro_f1(actual, predicted, len(data.classes)),
        "calibration_error": metrics.calibration_error(calibration),
        "rows": len(correct),
    }
    if len(data.classes) >= MANY_CLASSES:
        figures["top_5_accuracy"] = among_best / len(correct)

    pairs = metrics.confused_pairs(actual, predicted, data.classes)[:MOST_PAIRS]
    wrong = np.flatnonzero(~correct)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:most].tolist()
    mistakes = [
        Mistake(
            row=row,
            index=int(index[row]),
            file=files[row] if files else None,
            actual=data.classes[actual[row]],
            predicted=data.classes[predicted[row]],
            confidence=float(confidence[row]),
        )
        for row in worst
    ]
    return Judgement(
        actual=actual,
        predicted=predicted,
        losses=losses,
        figures=figures,
        predictions={
            "index": index,
            **({"file": files} if files else {}),
            "actual": map(data.classes.__getitem__, actual),
            "predicted": map(data.classes.__getitem__, predicted),
            "confidence": confidence,
        },
        errors={"error": [error for error, _ in pairs], "images": [images for _, images in pairs]},
        classes=columns(metrics.by_class(actual, predicted, data.classes)),
        calibration=columns(calibration),
        mistakes=mistakes,
        sentence=(
            f"accuracy {figures['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) "
            f"on {len(correct):,} test images"
        ),
    )


def columns(rows: list[dict[str, Any]]) -> Table:
    """The same table by columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}
