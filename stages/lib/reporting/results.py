"""The results of an evaluation: metrics, tables and the worst errors."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Table = dict[str, Iterable[Any]]  # column name -> values


@dataclass(frozen=True)
class Mistake:
    """One of the worst errors. The picture and the model card format it differently."""

    row: int  # of the split
    index: int  # row of the source
    file: str | None  # path below the source, if it has a file per image
    actual: str
    predicted: str
    confidence: float | None  # None for a regression


@dataclass(frozen=True)
class Evaluation:
    """The results of a model on a split."""

    actual: np.ndarray  # (N,) class numbers, or (N, quantities) in their units
    predicted: np.ndarray  # same shape
    losses: np.ndarray  # (N,) cross-entropy in nats; (0,) for a regression
    metrics: dict[str, Any]  # for reports/metrics.json
    predictions: Table  # a row per test image (and quantity)
    errors: Table  # kinds of errors, and how many images have each
    classes: Table  # a row per class; no rows for a regression
    calibration: Table  # a row per bin of confidence; no rows for a regression
    mistakes: list[Mistake]  # worst first
    summary: str  # one line
