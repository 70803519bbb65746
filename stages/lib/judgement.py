"""What evaluate finds out about a model, whatever its task: `classification.judge` and `regression.judge` give it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Table = dict[str, Iterable[Any]]  # name of a column -> its values


@dataclass(frozen=True)
class Judgement:
    """The figures, tables and worst images of a test split."""

    actual: np.ndarray  # (N,) class numbers, or (N, quantities) in their own units
    predicted: np.ndarray  # the same
    losses: np.ndarray  # (N,) cross-entropy, in nats; of a regression (0,)
    figures: dict[str, Any]  # for reports/metrics.json
    predictions: Table  # a row per test image (and quantity)
    errors: Table  # which errors occur, and on how many images
    classes: Table  # a row per class; of a regression none
    calibration: Table  # a row per bin of confidence; of a regression none
    worst: np.ndarray  # rows of the split with the worst errors, the worst first
    captions: list[list[str]]  # of those, for people
    sentence: str
