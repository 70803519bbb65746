"""A model as it is handed to other programs: from pixels to probabilities, with nothing left for them to know."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.lib.model.tensors import Standardize
from stages.lib.splits.description import DataDescription

Runner = Callable[[Tensor], Tensor]  # what a model does, whatever runs it: images -> outputs


def end_to_end(network: nn.Module, data: DataDescription) -> nn.Module:
    """A network that takes images (B, C, H, W) uint8 and gives probabilities of the classes, or quantities in their
    own units: (B, outputs) float32; in evaluation mode, and without
    gradients.
    """
    last = nn.Softmax(1) if data.classes else InOwnUnits(data)
    return nn.Sequential(Standardize(data), network, last).eval().requires_grad_(False)


def output_name(data: DataDescription) -> str:
    """What the numbers are."""
    return "probabilities" if data.classes else "quantities"


class InOwnUnits(nn.Module):
    """Standardized quantities (B, quantities) -> the same in their own units."""

    mean: Tensor  # (quantities,) float32
    std: Tensor

    def __init__(self, data: DataDescription) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = [getattr(quantity, name) for quantity in data.quantities]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean
