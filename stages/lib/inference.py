"""What a network says about every row of a split."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stages.lib.tensors import Split, Standardize

# Rows and pixels at a time; not parameters, though other numbers may change the last bits.
MOST_ROWS, MOST_PIXELS = 1000, 8_000_000


@torch.inference_mode()
def outputs_of(network: nn.Module, split: Split, device: torch.device) -> Iterator[tuple[slice, Tensor]]:
    """Logits, or standardized quantities, of all rows in their order, dropout off.

    Yields:
        Some rows, and what the network says of them: (n, outputs) float64 on the CPU.
    """
    network.eval()
    standardize = Standardize(split.description).to(device)
    rows = max(1, min(MOST_ROWS, MOST_PIXELS // split.description.pixels))
    for first in range(0, len(split), rows):
        some = slice(first, min(first + rows, len(split)))
        yield some, network(standardize(split.rows(some.start, some.stop).to(device))).cpu().double()
