"""Evaluation of a model on the test split: what the stage and `make card` share."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field
from torch import Tensor

from stages.lib.core.errors import UserError
from stages.lib.core.parameters import StageParameters
from stages.lib.model import model_file, tensors
from stages.lib.reporting import classification, regression
from stages.lib.reporting.results import Evaluation

TEST = Path("data/tensors/test")
REPORTS = Path("reports")


class Parameters(StageParameters):
    """The keys of params.yaml that evaluate reads."""

    calibration_bins: int = Field(default=15, ge=1, le=1000, description="bins of confidence between 0 and 1")
    mistakes_shown: int = Field(default=25, ge=0, le=1000, description="images in reports/mistakes.png, at most")


def read_test_split(model: model_file.ModelDescription) -> tensors.Split:
    """Read the test split that belongs to a model.

    Raises:
        UserError: it is missing or damaged, or the model was trained on other data.
    """
    test = tensors.read(TEST, memory=0)  # from disk: each row is read once
    if test.description != model.data:
        raise UserError(
            f"{TEST}: not of the data that {model_file.MODEL} was trained on; run `dvc repro`, which trains on them"
        )
    return test


def evaluate(
    outputs: Iterable[tuple[slice, Tensor]], test: tensors.Split, *, bins: int, max_mistakes: int
) -> Evaluation:
    """Evaluate a model's outputs on the test split.

    Args:
        outputs: batches that cover all rows: rows, and outputs (n, classes or quantities) float64.
        test: the split.
        bins: number of confidence bins; a regression has none.
        max_mistakes: length of the list of the worst errors, at most.
    """
    if test.description.classes:
        return classification.evaluate(outputs, test, bins=bins, max_mistakes=max_mistakes)
    return regression.evaluate(outputs, test, max_mistakes=max_mistakes)
