"""Fully connected layers: in a training step all of them are one step of autograd, for speed."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.overrides import handle_torch_function, has_torch_function_unary

from stages.lib.arithmetic.exact import Ranks
from stages.lib.arithmetic.functions import nearest
from stages.lib.arithmetic.guard import trusted
from stages.lib.arithmetic.products import Gradients, linear_backward, linear_forward


class Layers(NamedTuple):
    """How an arithmetic computes the layers."""

    linear: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Any]]  # x, weight, bias -> y, what the gradients need
    into_linear: Callable[[Any, Tensor, Sequence[bool]], Gradients]  # that, gradient, needed -> of x, weight, bias
    activate: Callable[[str, Tensor], Tensor]  # name, x -> y
    into_activation: Callable[[str, Tensor, Tensor, Tensor], Tensor]  # name, gradient, x, y -> gradient of x


def fully_connected(units: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """Apply linear, activation and dropout for each hidden layer, then a linear layer: (B, K) -> (B, N).

    Portable arithmetic replaces this function, as it does those of PyTorch.
    """
    if has_torch_function_unary(units):
        return handle_torch_function(fully_connected, (units,), units, layers)
    if (
        torch.is_grad_enabled()
        and units.device.type == "cpu"
        and not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())
        and in_one_step(layers, NATIVE_ACTIVATIONS)
    ):
        return apply(NATIVE_LAYERS, units, layers)
    for layer in layers:
        units = layer(units)
    return units


def in_one_step(layers: Sequence[nn.Module], activations: Collection[str]) -> bool:
    """Whether the hidden layers have these activations, and the dropout of `QuickDropout`."""
    names = (type(activation).__name__.lower() for activation in layers[1::3])
    return all(name in activations for name in names) and all(hasattr(dropout, "mask") for dropout in layers[2::3])


def apply(arithmetic: Layers, units: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """Apply the layers in one step of autograd."""
    names = [type(activation).__name__.lower() for activation in layers[1::3]]
    weights = [weight for linear in layers[::3] for weight in (linear.weight, linear.bias)]
    # The masks of `QuickDropout`, for as many units as the layer has biases.
    masks = [
        dropout.mask(len(units), bias.numel())  # type: ignore[operator]
        for dropout, bias in zip(layers[2::3], weights[1::2], strict=False)
    ]
    outputs: Tensor = FullyConnected.apply(units, names, masks, arithmetic, *weights)
    return outputs


class FullyConnected(Function):
    """The hidden layers and the last one: x (B, K) -> (B, N), with the bits of the layers in turn.

    Arguments:
        x: (B, K).
        activations: of the hidden layers, by name.
        masks: of dropout, (B, units), for each hidden layer; None: all units are kept.
        arithmetic: how the layers are computed.
        weights: weight and bias of each layer.
    """

    @staticmethod
    @trusted
    def forward(
        ctx: Any,
        x: Tensor,
        activations: Sequence[str],
        masks: Sequence[Tensor | None],
        arithmetic: Layers,
        *weights: Tensor,
    ) -> Tensor:
        ctx.arithmetic, ctx.hidden = arithmetic, []
        for activation, mask, weight, bias in zip(activations, masks, weights[::2], weights[1::2], strict=False):
            x, saved = arithmetic.linear(x, weight, bias)
            y = arithmetic.activate(activation, x)
            ctx.hidden.append((saved, activation, x, y, mask))
            x = y if mask is None else y * mask
        x, ctx.last = arithmetic.linear(x, weights[-2], weights[-1])
        return x

    @staticmethod
    @trusted
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        arithmetic = ctx.arithmetic
        needed = [*[True] * len(ctx.hidden), ctx.needs_input_grad[0]]  # of each layer's input, the last one's first
        grad, *of_weights = arithmetic.into_linear(ctx.last, grads[0], [needed[0], True, True])
        for (saved, activation, x, y, mask), need in zip(reversed(ctx.hidden), needed[1:], strict=True):
            assert grad is not None
            if mask is not None:
                grad = grad * mask
            grad = arithmetic.into_activation(activation, grad, x, y)
            grad, *of_layer = arithmetic.into_linear(saved, grad, [need, True, True])
            of_weights = [*of_layer, *of_weights]
        return grad, None, None, None, *of_weights


# --- Portable arithmetic ---

# Of y, the activation's result.
DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda y: 1 - y * y,
    "sigmoid": lambda y: y * (1 - y),
}


def portable_layers(ranks: Ranks) -> Layers:
    """Return how portable arithmetic computes the layers of ranks that share a batch."""
    return Layers(
        linear_forward,
        lambda factors, grad, needed: linear_backward(factors, grad, needed, ranks),
        nearest,
        lambda name, grad, x, y: grad * DERIVATIVES[name](y),
    )


# --- Native arithmetic ---

# gradient, x, y -> gradient of x: what torch's autograd calls for the function of this name.
NATIVE_ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "gelu": (nn.functional.gelu, lambda grad, x, y: torch.ops.aten.gelu_backward(grad, x)),
    "relu": (torch.relu, lambda grad, x, y: torch.ops.aten.threshold_backward(grad, y, 0)),
    "sigmoid": (torch.sigmoid, lambda grad, x, y: torch.ops.aten.sigmoid_backward(grad, y)),
    "silu": (nn.functional.silu, lambda grad, x, y: torch.ops.aten.silu_backward(grad, x)),
    "tanh": (torch.tanh, lambda grad, x, y: torch.ops.aten.tanh_backward(grad, y)),
}


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    return torch.addmm(bias, x, weight.t()), (x, weight)


def _into_linear(saved: tuple[Tensor, Tensor], grad: Tensor, needed: Sequence[bool]) -> Gradients:
    x, weight = saved
    return grad @ weight if needed[0] else None, grad.t() @ x, grad.sum(0)


NATIVE_LAYERS = Layers(
    _linear,
    _into_linear,
    lambda name, x: NATIVE_ACTIVATIONS[name][0](x),
    lambda name, grad, x, y: NATIVE_ACTIVATIONS[name][1](grad, x, y),
)
