"""Classification and regression: the targets that a loss compares outputs with, and the score.

               targets of a split                           targets of the loss                score
classification class numbers (N,) int64                     the same                           accuracy
regression     (N, quantities) float64, in their own units  standardized as float32, by the    R2
                                                            mean and std of the training rows
"""

import math

import torch
from torch import Tensor

from stages.lib.arithmetic.exact import ALONE, Ranks, exact_sum
from stages.lib.arithmetic.losses import softmax_of
from stages.lib.splits.description import DataDescription


def score_name(data: DataDescription) -> str:
    """Return the name of the score."""
    return "r2" if data.quantities else "accuracy"


def loss_targets(targets: Tensor, data: DataDescription) -> Tensor:
    """Return what the loss compares outputs with."""
    if not data.quantities:
        return targets
    mean, std = _scale(data)
    return ((targets - mean) / std).float()


def in_original_units(outputs: Tensor, data: DataDescription) -> Tensor:
    """Undo the standardization of a regression's outputs: (N, quantities) float64 -> the same shape and dtype."""
    mean, std = _scale(data)
    return outputs * std + mean


def probabilities(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability of each class, and its logarithm: (N, classes) -> float64, of float32 precision."""
    shares, logarithms = softmax_of(logits.float())
    return shares.double(), logarithms.double()


def score_sum(outputs: Tensor, targets: Tensor, ranks: Ranks = ALONE) -> float:
    """Return the sum of the rows' scores over all ranks; the mean over an epoch is the train score.

    The standardized quantities of the training rows have variance 1: there R2 is 1 minus the mean squared error.

    Args:
        outputs: (B, classes or quantities).
        targets: (B,) class numbers, or (B, quantities) standardized.
        ranks: the processes that have the other rows of the batch.
    """
    if targets.dtype == torch.int64:
        return float(ranks.sum_exactly((outputs.argmax(1) == targets).sum().double()))
    scores = 1 - (outputs.double() - targets).square()
    return float(exact_sum(scores, [0, 1], ranks)) / targets.shape[1]


def sums(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the sums that `score` needs: correct rows, (1,), or squared errors, (quantities,); float64.

    Args:
        outputs: (n, classes or quantities) float64.
        targets: (n,) class numbers, or (n, quantities).
    """
    if targets.dtype == torch.int64:
        return (outputs.argmax(1) == targets).sum(0, keepdim=True).double()
    return exact_sum((outputs - targets).square(), [0], ALONE)


def score(total: Tensor, targets: Tensor) -> float:
    """Return the accuracy, or the mean R2 of the quantities (0 for one that is constant), of a whole split.

    Args:
        total: the sum of `sums` over all rows.
        targets: of all rows.
    """
    if targets.dtype == torch.int64:
        return float(total) / len(targets)
    values = targets.double()
    variation = exact_sum((values - exact_sum(values, [0], ALONE) / len(values)).square(), [0], ALONE)
    varies = values.amin(0) != values.amax(0)
    return math.fsum(torch.where(varies, 1 - total / variation, 0.0).tolist()) / len(varies)


def _scale(data: DataDescription) -> tuple[Tensor, Tensor]:
    mean, std = (
        torch.tensor([getattr(quantity, name) for quantity in data.quantities], dtype=torch.float64)
        for name in ("mean", "std")
    )
    return mean, std
