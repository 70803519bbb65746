"""Elementwise operations and means whose gradients, or results, are sums: exact ones."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from stages.lib.arithmetic.exact import ALONE, Ranks, exact_sum
from stages.lib.arithmetic.guard import trusted


class Expanded(Function):
    """x, broadcast to a shape; its gradient is an exact sum.

    Over all ranks if x is one for all rows, as a weight is, and the result has a row per image.
    """

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor, shape: torch.Size, ranks: Ranks) -> Tensor:
        ctx.shape, ctx.ranks = x.shape, ranks
        return x.expand(shape)

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        added = grad.ndim - len(ctx.shape)
        dims = [dim for dim in range(grad.ndim) if dim < added or ctx.shape[dim - added] != grad.shape[dim]]
        total = exact_sum(grad, dims, ctx.ranks, keepdim=True).float()
        return total.reshape(ctx.shape), None, None


class Mean(Function):
    """The mean over some dimensions, as an exact sum, rounded once; over the rows it is that of all ranks."""

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor, dims: list[int], keepdim: bool, divisor: float, ranks: Ranks) -> Tensor:
        ctx.shape, ctx.divisor = x.shape, divisor
        ctx.kept = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
        return exact_sum(x, dims, ranks, keepdim=keepdim).div_(divisor).to(x.dtype)

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (grads[0] / ctx.divisor).view(ctx.kept).expand(ctx.shape), None, None, None, None


def broadcasting(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operation on two tensors, such as `torch.mul`, whose gradients are exact if shapes differ."""

    def operation(ranks: Ranks, x: Any, y: Any, *args: Any, **kwargs: Any) -> Tensor:
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape != y.shape:
            shape = torch.broadcast_shapes(x.shape, y.shape)
            x, y = (
                Expanded.apply(value, shape, ranks) if value.requires_grad and value.shape != shape else value
                for value in (x, y)
            )
        return function(x, y, *args, **kwargs)

    return operation


def mean(
    ranks: Ranks, x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, **options: Any
) -> Tensor:
    """`torch.mean` of float32 or float64."""
    dims = dimensions(x, dim)
    if 0 in dims:
        divisor = ranks.rows_in_all(len(x)) * math.prod(x.shape[each] for each in dims if each)
    else:
        divisor, ranks = math.prod(x.shape[each] for each in dims), ALONE
    result: Tensor = Mean.apply(x, dims, keepdim, divisor, ranks)
    return result


def sum_of(
    ranks: Ranks, x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False, **options: Any
) -> Tensor:
    """`torch.sum`; over the rows it is that of one process."""
    if not x.is_floating_point():
        return torch.sum(x) if dim is None else torch.sum(x, dim, keepdim)  # type: ignore[arg-type]
    dims = dimensions(x, dim)
    result: Tensor = Mean.apply(x, dims, keepdim, 1.0, ranks if 0 in dims else ALONE)
    return result


def dimensions(x: Tensor, dim: int | Sequence[int] | None) -> list[int]:
    """Return dimensions as numbers from 0; None stands for all."""
    if dim is None:
        return list(range(x.ndim))
    return sorted(each % x.ndim for each in ([dim] if isinstance(dim, int) else dim))


@trusted
def vector_norm(ranks: Ranks, x: Tensor, ord: float = 2, *args: Any, **options: Any) -> Tensor:
    """The L2 norm of all elements, without gradients."""
    values = x.detach().double().flatten()
    total = exact_sum(values * values, [0], ALONE)
    return torch.tensor(math.sqrt(float(total)), dtype=x.dtype)


def vector_norms(ranks: Ranks, tensors: Sequence[Tensor], ord: float = 2, **options: Any) -> list[Tensor]:
    """The L2 norm of each tensor, as `torch.nn.utils.clip_grad_norm_` asks for it."""
    return [vector_norm(ranks, x, ord) for x in tensors]


def multiply_each(ranks: Ranks, tensors: Sequence[Tensor], factor: Tensor | float) -> None:
    """Multiply each tensor by a number, in place, as `torch.nn.utils.clip_grad_norm_` does."""
    for x in tensors:
        x.mul_(factor)
