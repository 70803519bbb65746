"""What data say of themselves, from normalize to the finished model."""

import math

from pydantic import BaseModel, ConfigDict


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Quantity(_Strict):
    """One of the numbers that a regression predicts."""

    name: str
    mean: float  # of the training rows, in its own unit
    std: float


class DataDescription(_Strict):
    """Stands in the split.json of every split and in model.json: enough to make sense of their numbers."""

    dataset: str
    classes: list[str]  # names, in the order of the class numbers; of a regression, none
    shape: tuple[int, int, int]  # channels, height, width of an image
    mean: list[float]  # per channel, of training pixels scaled to 0..1
    std: list[float]
    quantities: list[Quantity] = []  # what a regression predicts; of a classification, none
    origin: dict[str, str] = {}  # how val and test came about, in words
    duplicates: dict[str, int] = {}  # training images that are also in val, and in test, pixel for pixel

    @property
    def pixels(self) -> int:
        """How many numbers an image has."""
        return math.prod(self.shape)

    @property
    def outputs(self) -> int:
        """How many numbers a network gives for an image: a logit per class, or one per quantity."""
        return len(self.classes) or len(self.quantities)
