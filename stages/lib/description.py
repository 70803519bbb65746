"""What data say of themselves, from normalize to the finished model."""

from pydantic import BaseModel, ConfigDict


class DataDescription(BaseModel):
    """Stands in statistics.json, inside every tensor file and in model.json: enough to make sense of their numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    classes: list[str]  # names, in the order of the class numbers
    shape: tuple[int, int, int]  # channels, height, width of an image
    mean: list[float]  # per channel, of training pixels scaled to 0..1
    std: list[float]
