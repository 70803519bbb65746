"""Portable arithmetic: under this mode, PyTorch's functions are those of this package.

    with Portable(ranks):
        loss = loss_function(network(images), targets)

So a network and a loss are written as everywhere. Where a function is not replaced, it is PyTorch's own; the guard says
whether that is equal on every processor.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional, init
from torch.overrides import TorchFunctionMode

from stages.lib.arithmetic import dense, elementwise, losses, normalization, pooling, random, resampling
from stages.lib.arithmetic.activations import ACTIVATIONS
from stages.lib.arithmetic.exact import ALONE, Ranks
from stages.lib.arithmetic.functions import SquareRoot
from stages.lib.arithmetic.products import Conv2d, Linear

PORTABLE, NATIVE = "portable", "native"
ARITHMETICS = (PORTABLE, NATIVE)
NATIVE_FUNCTIONS = nullcontext()  # the mode of native arithmetic: PyTorch's own functions


def linear(ranks: Ranks, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`."""
    if x.ndim == 2:
        return Linear.apply(x, weight, bias, ranks)  # type: ignore[no-any-return]
    y = Linear.apply(x.reshape(-1, x.shape[-1]), weight, bias, ranks)
    return y.view(*x.shape[:-1], len(weight))  # type: ignore[no-any-return]


def conv2d(
    ranks: Ranks,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`."""
    stride, dilation = pooling.pair(stride), pooling.pair(dilation)
    if isinstance(padding, str):
        if padding == "same":
            edges = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
            x = functional.pad(x, [edges[1] // 2, -(-edges[1] // 2), edges[0] // 2, -(-edges[0] // 2)])
        padding = 0
    result: Tensor = Conv2d.apply(x, weight, bias, stride, pooling.pair(padding), dilation, groups, ranks)
    return result


def fully_connected(ranks: Ranks, units: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """`dense.fully_connected`."""
    names = [type(activation).__name__.lower() for activation in layers[1::3]]
    if not all(name in dense.DERIVATIVES for name in names):
        with Portable(ranks):
            for layer in layers:
                units = layer(units)
        return units
    weights = [weight for linear in layers[::3] for weight in (linear.weight, linear.bias)]
    # The masks of `QuickDropout`, for as many units as the layer has biases.
    masks = [
        dropout.mask(len(units), bias.numel())  # type: ignore[operator]
        for dropout, bias in zip(layers[2::3], weights[1::2], strict=False)
    ]
    outputs: Tensor = dense.FullyConnected.apply(units, names, masks, ranks, *weights)
    return outputs


def square_root(ranks: Ranks, x: Tensor) -> Tensor:
    """`torch.sqrt`."""
    y: Tensor = SquareRoot.apply(x)
    return y


REPLACED: dict[Any, Callable[..., Any]] = {
    **ACTIVATIONS,
    **losses.LOSSES,
    dense.fully_connected: fully_connected,
    functional.linear: linear,
    functional.conv2d: conv2d,
    functional.batch_norm: normalization.batch_norm,
    functional.layer_norm: normalization.layer_norm,
    functional.adaptive_avg_pool2d: pooling.adaptive_avg_pool2d,
    functional.avg_pool2d: pooling.avg_pool2d,
    functional.grid_sample: resampling.grid_sample,
    functional.interpolate: resampling.interpolate,
    functional.max_pool2d: pooling.max_pool2d,
    torch.max_pool2d: pooling.max_pool2d,
    torch.mean: elementwise.mean,
    Tensor.mean: elementwise.mean,
    torch.sum: elementwise.sum_of,
    Tensor.sum: elementwise.sum_of,
    torch.linalg.vector_norm: elementwise.vector_norm,
    torch._foreach_norm: elementwise.vector_norms,
    torch._foreach_mul_: elementwise.multiply_each,
    torch.sqrt: square_root,
    Tensor.sqrt: square_root,
    torch.randn: random.randn,
    Tensor.normal_: random.normal_,
    Tensor.uniform_: random.uniform_,
    Tensor.bernoulli_: random.bernoulli_,
    Tensor.erfinv_: random.erfinv_,
    # These ask the mode themselves, which is off within them.
    init.kaiming_uniform_: random.kaiming_uniform_,
    init.normal_: random.init_normal_,
    init.uniform_: random.init_uniform_,
}
for name in ("add", "sub", "mul", "div"):
    for owner, names in ((torch, [name]), (Tensor, [name, f"__{name}__", f"__r{name}__"])):
        for attribute in names:
            if hasattr(owner, attribute):
                REPLACED[getattr(owner, attribute)] = elementwise.broadcasting(getattr(owner, attribute))


class Portable(TorchFunctionMode):
    """Replaces PyTorch's functions by those whose results are equal everywhere."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        """Make the mode.

        Args:
            ranks: the processes that share each batch.
        """
        super().__init__()
        self.ranks = ranks

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = REPLACED.get(func)
        if replacement is not None:
            return replacement(self.ranks, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def functions_of(arithmetic: str, ranks: Ranks = ALONE) -> AbstractContextManager[Any]:
    """Return the mode of an arithmetic, "portable" or "native"; it can be entered again and again.

    Args:
        arithmetic: which one.
        ranks: the processes that share each batch.
    """
    return Portable(ranks) if arithmetic == PORTABLE else NATIVE_FUNCTIONS
