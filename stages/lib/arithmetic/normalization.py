"""Batch and layer normalization from exact sums."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from stages.lib.arithmetic.exact import ALONE, Ranks, exact_sum
from stages.lib.arithmetic.functions import sqrt
from stages.lib.arithmetic.guard import trusted


class Normalized(Function):
    """x -> (x - mean) / sqrt(variance + eps) over some dimensions, with the mean and variance that it had.

    Over the rows too, they are those of the whole batch, on every rank.
    """

    @staticmethod
    @trusted
    def forward(
        ctx: Any, x: Tensor, dims: list[int], terms: int, eps: float, ranks: Ranks
    ) -> tuple[Tensor, Tensor, Tensor]:
        mean = exact_sum(x, dims, ranks, keepdim=True).div_(terms).float()
        centred = x - mean
        variance = exact_sum(centred * centred, dims, ranks, keepdim=True).div_(terms)
        scale = 1 / sqrt(variance + eps).float()
        normalized = centred.mul_(scale)
        ctx.save_for_backward(normalized, scale)
        ctx.dims, ctx.terms, ctx.ranks = dims, terms, ranks
        variance = variance.float()
        ctx.mark_non_differentiable(mean, variance)
        return normalized, mean, variance

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        normalized, scale = ctx.saved_tensors
        grad = grads[0]

        def mean(values: Tensor) -> Tensor:
            return exact_sum(values, ctx.dims, ctx.ranks, keepdim=True).div_(ctx.terms).float()

        into_x = (grad - mean(grad) - normalized * mean(grad * normalized)) * scale
        return into_x, None, None, None, None


class ScaledAndShifted(Function):
    """x * weight + bias, where the weights' gradients are exact sums."""

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dims: list[int], ranks: Ranks) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dims, ctx.ranks = dims, ranks
        return (x * weight).add_(bias)

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        x, weight = ctx.saved_tensors
        into_x = grad * weight if ctx.needs_input_grad[0] else None
        into_weight = into_bias = None
        if ctx.needs_input_grad[1]:
            into_weight = exact_sum(grad * x, ctx.dims, ctx.ranks, keepdim=True).float().view_as(weight)
        if ctx.needs_input_grad[2]:
            into_bias = exact_sum(grad, ctx.dims, ctx.ranks, keepdim=True).float().view_as(weight)
        return into_x, into_weight, into_bias, None, None


def batch_norm(
    ranks: Ranks,
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of (B, C, ...), over the rows of all ranks."""
    dims = [0, *range(2, x.ndim)]
    shape = (1, -1, *[1] * (x.ndim - 2))
    if training:
        terms = ranks.rows_in_all(len(x)) * math.prod(x.shape[2:])
        normalized, mean, variance = Normalized.apply(x, dims, terms, eps, ranks)
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                unbiased = variance * (terms / max(1, terms - 1))
                for running, value in ((running_mean, mean), (running_var, unbiased)):
                    running.mul_(1 - momentum).add_(value.view_as(running) * momentum)
    else:
        assert running_mean is not None
        assert running_var is not None
        scale = 1 / sqrt(running_var.double() + eps).float()
        normalized = (x - running_mean.view(shape)) * scale.view(shape)
    if weight is None or bias is None:
        return normalized  # type: ignore[no-any-return]
    result: Tensor = ScaledAndShifted.apply(normalized, weight.view(shape), bias.view(shape), dims, ranks)
    return result


def layer_norm(
    ranks: Ranks,
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.layer_norm`: each row by itself."""
    dims = list(range(x.ndim - len(normalized_shape), x.ndim))
    normalized = Normalized.apply(x, dims, math.prod(normalized_shape), eps, ALONE)[0]
    if weight is None or bias is None:
        return normalized  # type: ignore[no-any-return]
    others = list(range(x.ndim - len(normalized_shape)))
    shape = [1] * len(others) + [*normalized_shape]
    result: Tensor = ScaledAndShifted.apply(normalized, weight.view(shape), bias.view(shape), others, ranks)
    return result
