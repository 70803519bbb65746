"""The description of the data, which goes with them from normalize to the finished model."""

import math

from pydantic import BaseModel, ConfigDict


class FrozenModel(BaseModel):
    """Base of what is stored as JSON: immutable, exactly the declared fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Quantity(FrozenModel):
    """One of the numbers that a regression predicts."""

    name: str
    mean: float  # of the training rows, in the unit of the quantity
    std: float


class DataDescription(FrozenModel):
    """Part of the split.json of each split and of model.json: what their numbers mean."""

    dataset: str
    classes: list[str]  # names, in the order of the class numbers; empty for a regression
    shape: tuple[int, int, int]  # channels, height, width of an image
    mean: list[float]  # per channel, of training pixels scaled to 0..1
    std: list[float]
    quantities: list[Quantity] = []  # what a regression predicts; empty for a classification
    origin: dict[str, str] = {}  # where val and test come from, in words
    max_pixel_value: int = 65535  # white in images of 16 bits
    duplicates: dict[str, int] = {}  # how many training images are also in val, and in test

    @property
    def pixels(self) -> int:
        """The number of values in an image."""
        return math.prod(self.shape)

    @property
    def outputs(self) -> int:
        """The number of outputs per image: a logit per class, or a number per quantity."""
        return len(self.classes) or len(self.quantities)
