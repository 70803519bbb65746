"""What evaluate finds out about a model, whatever its task: `classification.judge` and `regression.judge` give it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Judgement:
    """The figures, tables and worst images of a test split."""

    figures: dict[str, Any]  # for reports/metrics.json
    predictions: pd.DataFrame  # a row per test image (and quantity)
    errors: pd.DataFrame  # which errors occur, and on how many images
    classes: pd.DataFrame  # a row per class; of a regression none
    calibration: pd.DataFrame  # a row per bin of confidence; of a regression none
    worst: np.ndarray  # rows of the split with an error, the worst first
    captions: list[list[str]]  # of those, for people
    sentence: str
