"""A hidden layer: linear, activation and dropout; in portable arithmetic in one step of autograd, for speed."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_unary

from stages.lib.arithmetic.exact import Ranks
from stages.lib.arithmetic.functions import nearest
from stages.lib.arithmetic.guard import trusted
from stages.lib.arithmetic.products import Linear


@runtime_checkable
class Dropout(Protocol):
    """Dropout whose masks can be drawn."""

    def mask(self, rows: int, units: int) -> Tensor | None:
        """Draw 0, or what a kept unit is multiplied by, for each unit: (rows, units); None: all are kept."""
        ...


def hidden_layer(units: Tensor, linear: nn.Linear, activation: nn.Module, dropout: nn.Module) -> Tensor:
    """Compute dropout(activation(linear(units))): (B, K) -> (B, N)."""
    if has_torch_function_unary(units):  # portable arithmetic
        return handle_torch_function(hidden_layer, (units,), units, linear, activation, dropout)
    outputs: Tensor = dropout(activation(linear(units)))
    return outputs


class Dense(Function):
    """x (B, K), weight (N, K), bias (N,) -> activation(x @ weight.T + bias) * mask: (B, N)."""

    @staticmethod
    @trusted
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, activation: str, mask: Tensor | None, ranks: Ranks
    ) -> Tensor:
        y = nearest(activation, Linear.forward(ctx, x, weight, bias, ranks))
        ctx.activation = DERIVATIVES[activation], y, mask
        return y if mask is None else y * mask

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        derivative, y, mask = ctx.activation
        if mask is not None:
            grad = grad * mask
        return (*Linear.backward(ctx, grad * derivative(y))[:3], None, None, None)


# Of y, the activation's result.
DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
}
