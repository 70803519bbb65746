"""Pooling of (B, C, H, W): maxima move numbers, means are exact sums."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from stages.lib.arithmetic.exact import Ranks, whole_rows
from stages.lib.arithmetic.guard import trusted

MAGNITUDE = 2.0**24  # of whole numbers; 2**29 of them can be added exactly


def pair(value: int | Sequence[int]) -> list[int]:
    """Return height and width of a window."""
    return [value, value] if isinstance(value, int) else [*value][:2] * (1 if len(value) > 1 else 2)


class MaxPool2d(Function):
    """The maximum of each window; where windows overlap, gradients are added exactly."""

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor, *geometry: Any) -> Tensor:
        y, indices = torch.ops.aten.max_pool2d_with_indices(x, *geometry)
        ctx.save_for_backward(x, indices)
        ctx.geometry = geometry
        return y  # type: ignore[no-any-return]

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, indices = ctx.saved_tensors
        kernel, stride, *_ = ctx.geometry
        grad = grads[0]
        if kernel == stride:
            into_x = torch.ops.aten.max_pool2d_with_indices_backward(grad, x, *ctx.geometry, indices)
        else:
            factor, maximum = whole_rows(grad, MAGNITUDE)
            into_x = torch.ops.aten.max_pool2d_with_indices_backward(factor, x.double(), *ctx.geometry, indices)
            into_x = into_x.mul_(maximum.mul_(1 / MAGNITUDE)).float()
        return into_x, *[None] * len(ctx.geometry)


def max_pool2d(
    ranks: Ranks,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    """`torch.nn.functional.max_pool2d`."""
    kernel = pair(kernel_size)
    geometry = (kernel, pair(stride) if stride else kernel, pair(padding), pair(dilation), ceil_mode)
    result: Tensor = MaxPool2d.apply(x, *geometry)
    return result


class WindowMean(Function):
    """Means over windows that are given by a matrix of zeros and ones for rows, and one for columns."""

    @staticmethod
    @trusted
    def forward(ctx: Any, x: Tensor, rows: Tensor, columns: Tensor, count: Tensor) -> Tensor:
        ctx.save_for_backward(rows, columns, count)
        factor, maximum = whole_rows(x, MAGNITUDE)
        return (rows @ factor @ columns.t()).mul_(maximum.mul_(1 / MAGNITUDE)).div_(count).float()

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, columns, count = ctx.saved_tensors
        factor, maximum = whole_rows(grads[0] / count.float(), MAGNITUDE)
        return (rows.t() @ factor @ columns).mul_(maximum.mul_(1 / MAGNITUDE)).float(), None, None, None


def adaptive_avg_pool2d(ranks: Ranks, x: Tensor, output_size: Any) -> Tensor:
    """`torch.nn.functional.adaptive_avg_pool2d`."""
    sizes = [side if wanted is None else wanted for wanted, side in zip(pair(output_size), x.shape[-2:], strict=True)]
    starts = [[at * side // size for at in range(size)] for size, side in zip(sizes, x.shape[-2:], strict=True)]
    ends = [[-(-(at + 1) * side // size) for at in range(size)] for size, side in zip(sizes, x.shape[-2:], strict=True)]
    return window_means(x, starts, ends, None)


def avg_pool2d(
    ranks: Ranks,
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """`torch.nn.functional.avg_pool2d`, without `ceil_mode`."""
    if ceil_mode:
        return torch._C._nn.avg_pool2d(  # the guard refuses it
            x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override
        )
    kernel, padded = pair(kernel_size), pair(padding)
    steps = pair(stride) if stride else kernel
    starts, ends = [], []
    for side, size, step, pad in zip(x.shape[-2:], kernel, steps, padded, strict=True):
        firsts = [at * step - pad for at in range((side + 2 * pad - size) // step + 1)]
        starts.append([max(0, first) for first in firsts])
        ends.append([min(side, first + size) for first in firsts])
    count = divisor_override or (kernel[0] * kernel[1] if count_include_pad else None)
    return window_means(x, starts, ends, count)


def window_means(x: Tensor, starts: list[list[int]], ends: list[list[int]], count: int | None) -> Tensor:
    """Average over windows: from `starts` to `ends`, of rows and of columns; divided by `count` or their sizes."""
    matrices = []
    for first, last, side in zip(starts, ends, x.shape[-2:], strict=True):
        at = torch.arange(side)
        inside = torch.logical_and(at >= torch.tensor(first)[:, None], at < torch.tensor(last)[:, None])
        matrices.append(inside.double())
    if count is None:
        high, wide = (torch.tensor(last) - torch.tensor(first) for first, last in zip(starts, ends, strict=True))
        counts = (high[:, None] * wide).double()
    else:
        counts = torch.full((len(starts[0]), len(starts[1])), float(count), dtype=torch.float64)
    result: Tensor = WindowMean.apply(x, *matrices, counts)
    return result
