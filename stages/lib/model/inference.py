"""The outputs of a network for every row of a split, or for other images."""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Protocol

import torch
from torch import Tensor, nn

from stages.lib.arithmetic.guard import guarded
from stages.lib.arithmetic.mode import NATIVE, PORTABLE, functions_of
from stages.lib.model.distributed import Group
from stages.lib.model.tensors import Standardize
from stages.lib.splits.description import DataDescription

# Of a batch; not parameters, though other numbers may change the last bits.
MAX_ROWS, MAX_PIXELS = 1000, 8_000_000


class Rows(Protocol):
    """Images that are read in batches, such as a `tensors.Split`."""

    @property
    def description(self) -> DataDescription: ...

    def __len__(self) -> int: ...

    def rows(self, first: int, last: int) -> Tensor:
        """Return the images of rows `first` up to but not including `last`: (n, C, H, W), bytes or standardized."""


def rows_at_a_time(description: DataDescription) -> int:
    """Return how many images make a batch."""
    return max(1, min(MAX_ROWS, MAX_PIXELS // description.pixels))


@torch.inference_mode()
def outputs_of(
    network: nn.Module, split: Rows, device: torch.device, group: Group, arithmetic: str = NATIVE
) -> Iterator[tuple[slice, Tensor]]:
    """Compute the logits, or standardized quantities, of all rows in their order, in evaluation mode.

    Batches go round-robin to the ranks; rank 0 gathers the outputs. The network stays in evaluation mode.

    Args:
        network: images (n, C, H, W) -> (n, outputs).
        split: the images.
        device: that computes.
        group: the ranks that share the work.
        arithmetic: "portable" or "native".

    Yields:
        On rank 0: the rows of a batch, and their outputs (n, outputs) float64 on the CPU. On other ranks: nothing.
    """
    network.eval()
    functions = functions_of(arithmetic)  # an image's outputs do not depend on the other images: no rank needs another
    guard = guarded(network) if arithmetic == PORTABLE else nullcontext()
    standardize = Standardize(split.description).to(device)
    rows = rows_at_a_time(split.description)
    batches = [slice(first, min(first + rows, len(split))) for first in range(0, len(split), rows)]
    for first in range(0, len(batches), group.size):
        outputs = torch.empty(0, 0, dtype=torch.float64)  # of a rank without a batch in the last round
        for batch in batches[first + group.rank : first + group.rank + 1]:
            images = standardize(split.rows(batch.start, batch.stop).to(device))
            with guard, functions:
                outputs = network(images).cpu().double()
            guard = nullcontext()  # of the first batch only
        yield from zip(batches[first : first + group.size], group.gather(outputs), strict=False)
