"""Evaluation of a classifier."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import Tensor

from stages.lib.model import tasks
from stages.lib.model.tensors import Split
from stages.lib.reporting import metrics
from stages.lib.reporting.results import Evaluation, Mistake, Table

MIN_CLASSES_FOR_TOP_5 = 20
MAX_PAIRS = 30  # rows of errors.csv


def evaluate(outputs: Iterable[tuple[slice, Tensor]], split: Split, *, bins: int, max_mistakes: int) -> Evaluation:
    """Compute accuracy, calibration, confusions and the most confident mistakes.

    Args:
        outputs: batches that cover all rows: rows, and logits (n, classes) float64.
        split: its targets are class numbers (N,) int64.
        bins: number of confidence bins between 0 and 1.
        max_mistakes: number of mistakes to return, at most.
    """
    names = split.description.classes
    actual = split.targets.numpy()
    predicted, confidence = np.empty_like(actual), np.empty(len(actual))
    losses, top_5_correct = np.empty(len(actual)), 0
    for rows, logits in outputs:
        of_classes, logarithms = tasks.probabilities(logits)
        probabilities = of_classes.numpy()
        predicted[rows], confidence[rows] = probabilities.argmax(1), probabilities.max(1)
        losses[rows] = -logarithms.gather(1, split.targets[rows, None])[:, 0].numpy()
        top_5_correct += metrics.top_k_correct(probabilities, actual[rows], 5)
    correct = actual == predicted
    calibration = metrics.calibration(confidence, correct, bins)
    low, high = metrics.accuracy_interval(int(correct.sum()), len(correct))
    scores = {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "cross_entropy": metrics.mean(losses),
        "macro_f1": metrics.macro_f1(actual, predicted, len(names)),
        "calibration_error": metrics.calibration_error(calibration),
        "rows": len(correct),
    }
    if len(names) >= MIN_CLASSES_FOR_TOP_5:
        scores["top_5_accuracy"] = top_5_correct / len(correct)

    wrong = np.flatnonzero(~correct)
    most_confident = wrong[np.argsort(-confidence[wrong], kind="stable")][:max_mistakes].tolist()
    mistakes = [
        Mistake(
            row=row,
            index=int(split.index[row]),
            file=split.files[row] if split.files else None,
            actual=names[actual[row]],
            predicted=names[predicted[row]],
            confidence=float(confidence[row]),
        )
        for row in most_confident
    ]
    predictions: Table = {"index": split.index.numpy()}
    if split.files:
        predictions["file"] = split.files
    predictions["actual"] = [names[number] for number in actual]
    predictions["predicted"] = [names[number] for number in predicted]
    predictions["confidence"] = confidence
    pairs = metrics.confused_pairs(actual, predicted, names)[:MAX_PAIRS]
    return Evaluation(
        actual=actual,
        predicted=predicted,
        losses=losses,
        metrics=scores,
        predictions=predictions,
        errors={"error": [error for error, _ in pairs], "images": [images for _, images in pairs]},
        classes=columns(metrics.by_class(actual, predicted, names)),
        calibration=columns(calibration),
        mistakes=mistakes,
        summary=(
            f"accuracy {scores['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) on {len(correct):,} test images"
        ),
    )


def columns(rows: list[dict[str, Any]]) -> Table:
    """Transpose a table from rows to columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}
