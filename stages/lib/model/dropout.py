"""Dropout whose masks are drawn several at a time: the mathematics of `torch.nn.Dropout`, at a fraction of its cost.

On a CPU torch draws one number for each unit, which takes longer than the layer before it. Here one 64-bit number
decides on four units, 16 bits each: the probability is that of params.yaml to within 1 / 131,072, and what is kept is
scaled by just the share that is kept, so that the expected value is exact. Other devices use torch's own.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

LANE = 1 << 16  # values of 16 bits
MOST_NEGATIVE = -(1 << 63)


class QuickDropout(nn.Module):
    """Each unit is 0 with probability `p` while training, the others scaled so that their expected value stays.

    Of several processes each draws for all rows of a batch, and takes what falls to its own: 36 us more for twice 128
    rows of 352 units, and as many processes as may be drop the same units.
    """

    rows: ClassVar[tuple[slice, int] | None] = None  # which of how many rows of a batch are seen here; None: all

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.dropped = min(round(p * LANE), LANE - 1)  # of LANE values
        self.kept = LANE / (LANE - self.dropped)  # what a kept unit is multiplied by
        self.steep = 1 << math.ceil(math.log2(self.kept))  # a power of two: then no product below is rounded
        self.bound = torch.tensor(float(-self.steep * (self.dropped - 1 - LANE // 2)))

    def forward(self, units: Tensor) -> Tensor:
        if not self.training or self.dropped == 0:
            return units
        if units.device.type != "cpu":
            return dropout(units, self.p)
        number, before, behind = units.numel(), 0, 0
        if self.rows:
            mine, all_rows = self.rows
            of_a_row = number // (mine.stop - mine.start)
            before, behind = mine.start * of_a_row, (all_rows - mine.stop) * of_a_row
        random = torch.empty(-(-(before + number + behind) // 4), dtype=torch.int64).random_(MOST_NEGATIVE, None)
        lanes = random.view(torch.int16)[before : before + number].view(units.shape)  # evenly from -LANE / 2 on
        # 0 where a lane is below the bound, and from `steep` upwards from it on, which the clamp cuts to `kept`: two
        # vectorized passes, where comparing and scaling takes three.
        mask = torch.add(self.bound, lanes, alpha=self.steep).clamp_(0, self.kept)
        return units * mask.to(units.dtype)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def quicken(network: nn.Module) -> nn.Module:
    """Put it in the place of every `torch.nn.Dropout` in a network."""
    for parent in network.modules():
        for name, part in parent.named_children():
            if type(part) is nn.Dropout:
                setattr(parent, name, QuickDropout(part.p))
    return network
