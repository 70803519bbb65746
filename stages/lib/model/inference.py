"""What a network says about every row of a split, or of images that no stage has seen."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from stages.lib.model.distributed import Group
from stages.lib.model.tensors import Standardize
from stages.lib.splits.description import DataDescription

# Rows and pixels at a time; not parameters, though other numbers may change the last bits.
MOST_ROWS, MOST_PIXELS = 1000, 8_000_000


class Rows(Protocol):
    """Images that are read some at a time, such as a `tensors.Split`."""

    @property
    def description(self) -> DataDescription: ...

    def __len__(self) -> int: ...

    def rows(self, first: int, last: int) -> Tensor:
        """The images of rows `first` to before `last`: (n, C, H, W), bytes or standardized."""


def rows_at_a_time(description: DataDescription) -> int:
    """How many images the network is given together."""
    return max(1, min(MOST_ROWS, MOST_PIXELS // description.pixels))


@torch.inference_mode()
def outputs_of(network: nn.Module, split: Rows, device: torch.device, group: Group) -> Iterator[tuple[slice, Tensor]]:
    """Logits, or standardized quantities, of all rows in their order, dropout off.

    Of several processes each takes its turn at the rows, in the pieces of one process, and the first one has them all.

    Yields:
        In the first process: some rows, and what the network says of them: (n, outputs) float64 on the CPU.
    """
    network.eval()
    standardize = Standardize(split.description).to(device)
    rows = rows_at_a_time(split.description)
    pieces = [slice(first, min(first + rows, len(split))) for first in range(0, len(split), rows)]
    for turn in range(0, len(pieces), group.size):
        outputs = torch.empty(0)
        for some in pieces[turn + group.rank : turn + group.rank + 1]:
            outputs = network(standardize(split.rows(some.start, some.stop).to(device))).cpu().double()
        yield from zip(pieces[turn : turn + group.size], group.to_first(outputs), strict=False)
