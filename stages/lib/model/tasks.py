"""Classification and regression, as a training sees them: what a network's outputs are held against, and how well.

               targets of a split                           wanted by the loss                 score
classification class numbers (N,) int64                     the same                           accuracy
regression     (N, quantities) float64, in their own units  standardized as float32, by the    R2
                                                            mean and std of the training rows
"""

import torch
from torch import Tensor

from stages.lib.splits.description import DataDescription


def score_name(data: DataDescription) -> str:
    """What the score is called."""
    return "r2" if data.quantities else "accuracy"


def wanted(targets: Tensor, data: DataDescription) -> Tensor:
    """What the loss compares outputs with."""
    if not data.quantities:
        return targets
    mean, std = _scale(data)
    return ((targets - mean) / std).float()


def in_own_units(outputs: Tensor, data: DataDescription) -> Tensor:
    """The quantities behind a regression's outputs: (N, quantities) float64 -> the same."""
    mean, std = _scale(data)
    return outputs * std + mean


def score_sum(outputs: Tensor, targets: Tensor) -> float:
    """What a batch adds to the score, which is the mean over all training rows.

    The standardized quantities of the training rows have mean 0 and variance 1: there R2 is 1 less the mean square.

    Args:
        outputs: (B, classes or quantities).
        targets: (B,) class numbers, or (B, quantities) standardized.
    """
    if targets.dtype == torch.int64:
        return float((outputs.argmax(1) == targets).sum())
    return float((1 - (outputs.double() - targets).square()).mean(1).sum())


def sums(outputs: Tensor, targets: Tensor) -> Tensor:
    """What some rows add to what `score` needs: how many are right, (1,), or squared errors, (quantities,); float64.

    Args:
        outputs: (n, classes or quantities) float64.
        targets: (n,) class numbers, or (n, quantities).
    """
    if targets.dtype == torch.int64:
        return (outputs.argmax(1) == targets).sum(0, keepdim=True).double()
    return (outputs - targets).square().sum(0)


def score(found: Tensor, targets: Tensor) -> float:
    """Accuracy, or the mean R2 of the quantities, of a whole split; 0 where all its rows are the same.

    Args:
        found: the sum of `sums` over all rows.
        targets: of all rows.
    """
    if targets.dtype == torch.int64:
        return float(found) / len(targets)
    wanted = targets.double()
    spread = (wanted - wanted.mean(0)).square().sum(0)
    differ = wanted.amin(0) != wanted.amax(0)
    return float(torch.where(differ, 1 - found / spread, 0.0).mean())


def _scale(data: DataDescription) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor([getattr(quantity, name) for quantity in data.quantities], dtype=torch.float64)
        for name in ("mean", "std")
    )
    return mean, std
