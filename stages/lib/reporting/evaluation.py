"""What evaluate finds out about a model, whatever its task: `classification.judge` and `regression.judge` give it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Table = dict[str, Iterable[Any]]  # name of a column -> its values


@dataclass(frozen=True)
class Mistake:
    """One of the worst errors; the picture and the model card each put the parts into words."""

    row: int  # of the split
    index: int  # row of the source
    file: str | None  # path below the source, if it has a file per image
    actual: str
    predicted: str
    confidence: float | None  # of a regression None


@dataclass(frozen=True)
class Judgement:
    """The figures, tables and worst errors of a test split."""

    actual: np.ndarray  # (N,) class numbers, or (N, quantities) in their own units
    predicted: np.ndarray  # the same
    losses: np.ndarray  # (N,) cross-entropy, in nats; of a regression (0,)
    figures: dict[str, Any]  # for reports/metrics.json
    predictions: Table  # a row per test image (and quantity)
    errors: Table  # which errors occur, and on how many images
    classes: Table  # a row per class; of a regression none
    calibration: Table  # a row per bin of confidence; of a regression none
    mistakes: list[Mistake]  # the worst first
    sentence: str
