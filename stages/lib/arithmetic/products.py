"""Linear layers and convolutions whose sums are exact: see `exact`.

Each row of a factor (an image, an output channel of the weights) is scaled by itself. So the output for an image does
not depend on the other images of its batch, and the gradient of the weights alone needs all ranks.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from stages.lib.arithmetic.exact import Ranks, balanced, exact_sum, largest, other, whole, whole_rows
from stages.lib.arithmetic.guard import trusted

ENOUGH = 2.0**20  # magnitude of a factor; if sums of very many terms leave less, both factors get equally much
Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Factors(NamedTuple):
    """What the gradients of a product need: whole numbers as float64, and the largest magnitudes they stand for."""

    x: Tensor  # (B, K)
    x_maximum: Tensor  # (B, 1)
    weight: Tensor  # (N, K)
    weight_maximum: Tensor  # (1, N)
    magnitude: float


def linear_forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Factors]:
    """Compute x @ weight.T + bias: (B, K), (N, K), (N,) -> (B, N)."""
    magnitude = balanced(x.shape[1])
    x, x_maximum = whole_rows(x, magnitude)
    weight, weight_maximum = whole_rows(weight, magnitude)
    weight_maximum = weight_maximum.t()
    y = torch.mm(x, weight.t()).mul_(x_maximum).mul_(weight_maximum * (1 / magnitude**2)).float()
    return y if bias is None else y.add_(bias), Factors(x, x_maximum, weight, weight_maximum, magnitude)


def linear_backward(factors: Factors, grad: Tensor, needed: Sequence[bool], ranks: Ranks) -> Gradients:
    """Compute the gradients of x, weight and bias, as far as they are needed; of the weights over all ranks."""
    x, x_maximum, weight, weight_maximum, magnitude = factors
    into_x = into_weight = into_bias = None
    if needed[0]:
        other_magnitude = other(magnitude, len(weight))
        factor, maximum = whole_rows(grad * weight_maximum, other_magnitude)
        into_x = torch.mm(factor, weight).mul_(maximum.mul_(1 / (other_magnitude * magnitude))).float()
    if needed[1]:
        x, other_magnitude = with_room_for(ranks.rows_in_all(len(x)), x, magnitude)
        factor, maximum = whole_columns(grad * x_maximum, other_magnitude, ranks)
        unit = maximum.mul_(1 / (other_magnitude * magnitude)).t()
        into_weight = ranks.sum_exactly(torch.mm(factor.t(), x)).float().mul_(unit)
    if needed[2]:
        into_bias = exact_sum(grad, [0], ranks).float()
    return into_x, into_weight, into_bias


class Linear(Function):
    """x (B, K), weight (N, K), bias (N,) or None -> (B, N)."""

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, ranks: Ranks) -> Tensor:
        y, factors = linear_forward(x, weight, bias)
        ctx.factors, ctx.ranks = factors, ranks
        return y

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *linear_backward(ctx.factors, grads[0], ctx.needs_input_grad, ctx.ranks), None


class Conv2d(Function):
    """x (B, C, H, W), weight (N, C / groups, h, w), bias (N,) or None -> (B, N, H', W').

    torch's own convolution in float64, whose sums are exact here whatever algorithm it chooses.
    """

    @staticmethod
    @trusted
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        ranks: Ranks,
    ) -> Tensor:
        magnitude = balanced(weight[0].numel())
        x, x_maximum = whole_rows(x, magnitude)
        weight, weight_maximum = whole_rows(weight, magnitude)
        weight_maximum = weight_maximum.view(1, -1, 1, 1)
        ctx.save_for_backward(x, x_maximum, weight, weight_maximum)
        ctx.magnitude, ctx.ranks, ctx.geometry = magnitude, ranks, (stride, padding, dilation, False, [0, 0], groups)
        y = torch.conv2d(x, weight, None, stride, padding, dilation, groups)
        y = y.mul_(x_maximum).mul_(weight_maximum * (1 / magnitude**2)).float()
        return y if bias is None else y.add_(bias.view(1, -1, 1, 1))

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, x_maximum, weight, weight_maximum = ctx.saved_tensors
        ranks: Ranks = ctx.ranks
        into_x = into_weight = into_bias = None
        if ctx.needs_input_grad[0]:
            terms = weight.numel() // (weight.shape[1] * ctx.geometry[-1])  # of an output channel's group
            magnitude = other(ctx.magnitude, terms)
            factor, maximum = whole_rows(grad * weight_maximum, magnitude)
            unit = maximum.mul_(1 / (magnitude * ctx.magnitude))
            into_x = _gradients(factor, x, weight, ctx.geometry, [True, False])[0].mul_(unit).float()
        if ctx.needs_input_grad[1]:
            terms = ranks.rows_in_all(len(grad)) * grad[0, 0].numel()
            x, magnitude = with_room_for(terms, x, ctx.magnitude)
            factor, maximum = whole_columns(grad * x_maximum, magnitude, ranks)
            unit = maximum.mul_(1 / (magnitude * ctx.magnitude))
            total = ranks.sum_exactly(_gradients(factor, x, weight, ctx.geometry, [False, True])[1])
            into_weight = total.float().mul_(unit.view(-1, 1, 1, 1))
        if ctx.needs_input_grad[2]:
            into_bias = exact_sum(grad, [0, 2, 3], ranks).float()
        return into_x, into_weight, into_bias, None, None, None, None, None


def _gradients(grad: Tensor, x: Tensor, weight: Tensor, geometry: tuple[Any, ...], wanted: list[bool]) -> list[Tensor]:
    gradients: list[Tensor] = torch.ops.aten.convolution_backward(grad, x, weight, None, *geometry, [*wanted, False])
    return gradients


def whole_columns(values: Tensor, magnitude: float, ranks: Ranks) -> tuple[Tensor, Tensor]:
    """Scale each column, (rows, columns, ...), over all ranks to whole numbers of at most `magnitude`.

    Returns:
        The whole numbers as float64, and each column's largest magnitude, for which `magnitude` stands: (1, columns, 1,
        ...) float32.
    """
    maximum = ranks.maximum(largest(values, (0, *range(2, values.ndim))))
    return whole(values, maximum, magnitude), maximum


def with_room_for(terms: int, factor: Tensor, magnitude: float) -> tuple[Tensor, float]:
    """Round whole numbers to fewer digits if sums of very many terms leave the other factor too few.

    Returns:
        The factor, and the magnitude of the other one.
    """
    if other(magnitude, terms) < ENOUGH and balanced(terms) < magnitude:
        step = math.ldexp(1.0, math.frexp(magnitude / balanced(terms))[1])
        factor = (factor / step).round_().mul_(step)
        return factor, math.floor(other(math.ceil(magnitude / step), terms))
    return factor, other(magnitude, terms)
