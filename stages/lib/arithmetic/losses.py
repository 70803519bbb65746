"""The losses of `torch.nn.functional`, from functions rounded right and exact sums.

A mean over the rows is that of the whole batch, on every rank.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional

from stages.lib.arithmetic.elementwise import Expanded, mean, sum_of
from stages.lib.arithmetic.exact import ALONE, Ranks, exact_sum
from stages.lib.arithmetic.functions import nearest
from stages.lib.arithmetic.guard import trusted

SHIFT = 1.5 * 2.0 ** (52 - 32)  # rounds exponentials to multiples of 2**-32, of which 2**20 can be added exactly


def softmax_of(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Compute probabilities and their logarithms over the last dimension, both float32."""
    shifted = logits - logits.amax(-1, keepdim=True)
    exponentials = nearest("exp", shifted)  # the largest is 1
    total = (exponentials.double() + SHIFT).sub_(SHIFT).sum(-1, keepdim=True)
    return exponentials / total.float(), shifted - nearest("log", total)


class LogSoftmax(Function):
    """logits (..., C) -> log-probabilities."""

    @staticmethod
    @trusted
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        probabilities, logarithms = softmax_of(logits)
        ctx.save_for_backward(probabilities)
        return logarithms

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        probabilities: Tensor = ctx.saved_tensors[0]
        return grads[0] - probabilities * exact_sum(grads[0], [grads[0].ndim - 1], ALONE, keepdim=True).float()


class Softmax(Function):
    """logits (..., C) -> probabilities."""

    @staticmethod
    @trusted
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        probabilities, _ = softmax_of(logits)
        ctx.save_for_backward(probabilities)
        return probabilities

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        probabilities: Tensor = ctx.saved_tensors[0]
        product = grads[0] * probabilities
        return product - probabilities * exact_sum(product, [product.ndim - 1], ALONE, keepdim=True).float()


class CrossEntropy(Function):
    """logits (B, C) and coefficients (B, C) -> -sum(coefficients * log-probabilities) of each row, (B,)."""

    @staticmethod
    @trusted
    def forward(ctx: Any, logits: Tensor, coefficients: Tensor) -> Tensor:
        probabilities, logarithms = softmax_of(logits)
        ctx.save_for_backward(probabilities, coefficients)
        return -exact_sum(coefficients * logarithms, [1], ALONE).float()

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        probabilities, coefficients = ctx.saved_tensors
        total = exact_sum(coefficients, [1], ALONE, keepdim=True).float()
        return grads[0][:, None] * (probabilities * total - coefficients), None


class ClassCrossEntropy(Function):
    """logits (B, C) and class numbers (B,) -> the mean over the rows of all ranks: the usual case, in fewer steps."""

    @staticmethod
    @trusted
    def forward(ctx: Any, logits: Tensor, targets: Tensor, ranks: Ranks) -> Tensor:
        probabilities, logarithms = softmax_of(logits)
        rows = ranks.rows_in_all(len(logits))
        ctx.save_for_backward(probabilities, targets)
        ctx.rows = rows
        return exact_sum(logarithms.gather(1, targets[:, None]), [0, 1], ranks).div_(-rows).float()

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        probabilities, targets = ctx.saved_tensors
        hit = torch.zeros_like(probabilities).scatter_(1, targets[:, None], 1.0)
        return torch.sub(probabilities, hit, out=hit).mul_(grads[0] / ctx.rows), None, None


class WeightedMean(Function):
    """values (B,) -> their sum over all ranks, divided by a number."""

    @staticmethod
    @trusted
    def forward(ctx: Any, values: Tensor, divisor: float, ranks: Ranks) -> Tensor:
        ctx.divisor, ctx.rows = divisor, len(values)
        return exact_sum(values, [0], ranks).div_(divisor).float()

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return (grads[0] / ctx.divisor).expand(ctx.rows), None, None


def cross_entropy(
    ranks: Ranks,
    logits: Tensor,
    targets: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """`torch.nn.functional.cross_entropy` of logits (B, C) and class numbers (B,) or probabilities (B, C)."""
    classes = logits.shape[1]
    numbers = targets.dtype == torch.int64
    if numbers and weight is None and not label_smoothing and reduction == "mean":
        result: Tensor = ClassCrossEntropy.apply(logits, targets, ranks)
        return result
    share = torch.zeros_like(logits).scatter_(1, targets[:, None], 1.0) if numbers else targets.to(logits.dtype)
    if label_smoothing:
        share = share * (1 - label_smoothing) + label_smoothing / classes
    if weight is not None:
        share = share * weight
    rows: Tensor = CrossEntropy.apply(logits, share)
    if reduction == "none":
        return rows
    if reduction == "sum":
        return sum_of(ranks, rows)
    if weight is None or not numbers:
        return mean(ranks, rows)
    result = WeightedMean.apply(rows, float(trusted(exact_sum)(weight[targets], [0], ranks)), ranks)
    return result


def multi_margin_loss(
    ranks: Ranks,
    outputs: Tensor,
    targets: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """`torch.nn.functional.multi_margin_loss` of outputs (B, C) and class numbers (B,)."""
    hit = torch.zeros_like(outputs).scatter_(1, targets[:, None], 1.0)
    own = sum_of(ALONE, outputs * hit, 1, keepdim=True)  # gather, whose gradient is a sum
    below: Tensor = (margin - Expanded.apply(own, outputs.shape, ALONE) + outputs).clamp(min=0)
    each = (below * below if p == 2 else below) * (1 - hit)
    if weight is not None:
        each = each * weight[targets][:, None]
    return reduced(ranks, sum_of(ALONE, each, 1) / outputs.shape[1], reduction)


def mse_loss(
    ranks: Ranks,
    outputs: Tensor,
    targets: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: None = None,
) -> Tensor:
    """`torch.nn.functional.mse_loss`."""
    error = outputs - targets
    return reduced(ranks, error * error, reduction)


def l1_loss(
    ranks: Ranks,
    outputs: Tensor,
    targets: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: None = None,
) -> Tensor:
    """`torch.nn.functional.l1_loss`."""
    return reduced(ranks, (outputs - targets).abs(), reduction)


def huber_loss(
    ranks: Ranks, outputs: Tensor, targets: Tensor, reduction: str = "mean", delta: float = 1.0, weight: None = None
) -> Tensor:
    """`torch.nn.functional.huber_loss`."""
    error = (outputs - targets).abs()
    near = error.clamp(max=delta)
    return reduced(ranks, torch.where(error <= delta, near * near * 0.5, (error - 0.5 * delta) * delta), reduction)


def smooth_l1_loss(
    ranks: Ranks,
    outputs: Tensor,
    targets: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """`torch.nn.functional.smooth_l1_loss`."""
    error = (outputs - targets).abs()
    if beta == 0:
        return reduced(ranks, error, reduction)
    near = error.clamp(max=beta)
    return reduced(ranks, torch.where(error < beta, near * near * 0.5 / beta, error - 0.5 * beta), reduction)


def reduced(ranks: Ranks, values: Tensor, reduction: str) -> Tensor:
    """Return the mean or the sum of all values, or the values."""
    if reduction == "none":
        return values
    return mean(ranks, values) if reduction == "mean" else sum_of(ranks, values)


def log_softmax(ranks: Ranks, x: Tensor, dim: int = -1, *args: Any, **options: Any) -> Tensor:
    """`torch.nn.functional.log_softmax`."""
    return LogSoftmax.apply(x.movedim(dim, -1)).movedim(-1, dim)  # type: ignore[no-any-return]


def softmax(ranks: Ranks, x: Tensor, dim: int = -1, *args: Any, **options: Any) -> Tensor:
    """`torch.nn.functional.softmax`."""
    return Softmax.apply(x.movedim(dim, -1)).movedim(-1, dim)  # type: ignore[no-any-return]


LOSSES: dict[Any, Any] = {
    functional.cross_entropy: cross_entropy,
    functional.multi_margin_loss: multi_margin_loss,
    functional.mse_loss: mse_loss,
    functional.l1_loss: l1_loss,
    functional.huber_loss: huber_loss,
    functional.smooth_l1_loss: smooth_l1_loss,
    functional.log_softmax: log_softmax,
    functional.softmax: softmax,
    torch.log_softmax: log_softmax,
    torch.softmax: softmax,
    torch.Tensor.log_softmax: log_softmax,
    torch.Tensor.softmax: softmax,
}
