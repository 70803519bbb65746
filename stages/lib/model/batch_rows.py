"""The rows of a batch that one rank has, and random numbers that do not depend on the number of ranks."""

from collections.abc import Callable

import torch
from torch import Tensor


class BatchRows:
    """The rows of the current batch that this process computes: all, unless a group updates it at every step."""

    def __init__(self) -> None:
        self.mine: slice | None = None  # None: all rows
        self.total = 0

    def select(self, mine: slice, total: int) -> None:
        """Set the rows of the next step: `mine` of `total`."""
        self.mine, self.total = mine, total

    def draw(self, function: Callable[..., Tensor], rows: int, *size: int, device: torch.device) -> Tensor:
        """Draw random numbers for every row of the batch and return those of this process: (rows, *size).

        Args:
            function: of torch, such as `torch.rand`.
            rows: how many rows this process has.
            size: of what is drawn for each row.
            device: of the numbers.
        """
        if self.mine is None:
            return function(rows, *size, device=device)
        return function(self.total, *size, device=device)[self.mine]

    def elements_outside(self, elements: int) -> tuple[int, int]:
        """Return how many elements of the batch lie before and after the `elements` of this process."""
        if self.mine is None:
            return 0, 0
        per_row = elements // (self.mine.stop - self.mine.start)
        return self.mine.start * per_row, (self.total - self.mine.stop) * per_row
