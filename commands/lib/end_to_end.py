"""The network as other programs use it: pixels in, probabilities or quantities out."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.lib.model.tensors import Standardize
from stages.lib.splits.description import DataDescription

Runner = Callable[[Tensor], Tensor]  # images -> outputs, in any runtime


def end_to_end(network: nn.Module, data: DataDescription) -> nn.Module:
    """Add the standardization before a network, and softmax or the units of the quantities after it.

    Returns:
        Takes images (B, C, H, W) uint8 and returns probabilities of the classes, or quantities in their units: (B,
        outputs) float32; in evaluation mode and without gradients.
    """
    last = nn.Softmax(1) if data.classes else InOriginalUnits(data)
    return nn.Sequential(Standardize(data), network, last).eval().requires_grad_(False)


def output_name(data: DataDescription) -> str:
    """Name the outputs."""
    return "probabilities" if data.classes else "quantities"


class InOriginalUnits(nn.Module):
    """Standardized quantities (B, quantities) -> quantities in their units."""

    mean: Tensor  # (quantities,) float32
    std: Tensor

    def __init__(self, data: DataDescription) -> None:
        super().__init__()
        for name in ("mean", "std"):
            values = [getattr(quantity, name) for quantity in data.quantities]
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    def forward(self, outputs: Tensor) -> Tensor:
        return outputs * self.std + self.mean
