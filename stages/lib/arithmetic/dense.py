"""Fully connected layers: in portable arithmetic all of them are one step of autograd, for speed."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_unary

from stages.lib.arithmetic.exact import Ranks
from stages.lib.arithmetic.functions import nearest
from stages.lib.arithmetic.guard import trusted
from stages.lib.arithmetic.products import linear_backward, linear_forward

# Of y, the activation's result.
DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
}


def fully_connected(units: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """Apply linear, activation and dropout for each hidden layer, then a linear layer: (B, K) -> (B, N).

    Portable arithmetic replaces this function, as it does those of PyTorch.
    """
    if has_torch_function_unary(units):
        return handle_torch_function(fully_connected, (units,), units, layers)
    for layer in layers:
        units = layer(units)
    return units


class FullyConnected(Function):
    """The hidden layers and the last one: x (B, K) -> (B, N), with the bits of the layers in turn.

    Arguments:
        x: (B, K).
        activations: of the hidden layers, names in DERIVATIVES.
        masks: of dropout, (B, units), for each hidden layer; None: all units are kept.
        ranks: the processes that share the batch.
        weights: weight and bias of each layer.
    """

    @staticmethod
    @trusted
    def forward(
        ctx: Any,
        x: Tensor,
        activations: Sequence[str],
        masks: Sequence[Tensor | None],
        ranks: Ranks,
        *weights: Tensor,
    ) -> Tensor:
        ctx.ranks, ctx.hidden = ranks, []
        for activation, mask, weight, bias in zip(activations, masks, weights[::2], weights[1::2], strict=False):
            x, factors = linear_forward(x, weight, bias)
            y = nearest(activation, x)
            ctx.hidden.append((factors, activation, y, mask))
            x = y if mask is None else y * mask
        x, ctx.last = linear_forward(x, weights[-2], weights[-1])
        return x

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needed = [*[True] * len(ctx.hidden), ctx.needs_input_grad[0]]  # of each layer's input, the last one's first
        grad, *of_weights = linear_backward(ctx.last, grads[0], [needed[0], True, True], ctx.ranks)
        for (factors, activation, y, mask), need in zip(reversed(ctx.hidden), needed[1:], strict=True):
            assert grad is not None
            if mask is not None:
                grad = grad * mask
            grad = grad * DERIVATIVES[activation](y)
            grad, *of_layer = linear_backward(factors, grad, [need, True, True], ctx.ranks)
            of_weights = [*of_layer, *of_weights]
        return grad, None, None, None, *of_weights
