"""How a classifier does on the test split."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.lib import metrics
from stages.lib.description import DataDescription
from stages.lib.judgement import Judgement, Table

MANY_CLASSES = 20  # from which on the accuracy of the five best guesses is told as well
MOST_PAIRS = 30  # of classes that are confused


def judge(
    logits: Tensor, targets: Tensor, index: np.ndarray, data: DataDescription, *, bins: int, most: int
) -> Judgement:
    """Accuracy, calibration, and what is confused with what.

    Args:
        logits: (N, classes) float64.
        targets: (N,) int64, class numbers.
        index: (N,) int64, rows of the source.
        data: what the model knows of its data.
        bins: of confidence between 0 and 1.
        most: how many of the most confident mistakes are to be shown.
    """
    probabilities = logits.softmax(1).numpy()
    actual, predicted = targets.numpy(), probabilities.argmax(1)
    confidence, correct = probabilities.max(1), actual == predicted
    calibration = metrics.calibration(confidence, correct, bins)
    low, high = metrics.accuracy_interval(int(correct.sum()), len(correct))
    figures = {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": float(cross_entropy(logits, targets)),
        "macro_f1": metrics.macro_f1(actual, predicted, len(data.classes)),
        "calibration_error": metrics.calibration_error(calibration),
        "rows": len(correct),
    }
    if len(data.classes) >= MANY_CLASSES:
        figures["top_5_accuracy"] = metrics.top_accuracy(probabilities, actual, 5)

    names = np.array(data.classes)
    pairs = metrics.confused_pairs(actual, predicted, data.classes)[:MOST_PAIRS]
    mistakes = np.flatnonzero(~correct)
    mistakes = mistakes[np.argsort(-confidence[mistakes], kind="stable")][:most]
    captions = [
        [f"actual {names[actual[row]]}", f"said {names[predicted[row]]} ({confidence[row]:.1%})", f"row {index[row]}"]
        for row in mistakes
    ]
    return Judgement(
        figures=figures,
        predictions={
            "index": index.tolist(),
            "actual": names[actual].tolist(),
            "predicted": names[predicted].tolist(),
            "confidence": confidence.tolist(),
        },
        errors={"error": [error for error, _ in pairs], "images": [images for _, images in pairs]},
        classes=columns(metrics.by_class(actual, predicted, data.classes)),
        calibration=columns(calibration),
        worst=mistakes,
        captions=captions,
        sentence=(
            f"accuracy {figures['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) "
            f"on {len(correct):,} test images"
        ),
    )


def columns(rows: list[dict[str, Any]]) -> Table:
    """The same table by columns."""
    return {name: [row[name] for row in rows] for name in rows[0]}
