"""SGD, Adam and AdamW in operations that are each rounded by themselves.

torch's own use products and sums in one rounding on some processors. Here all weights of a group are one flat tensor,
of which the network's weights are views: few operations, each over everything.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.lib.arithmetic.functions import power

Closure = Callable[[], float]


class Flat(torch.optim.Optimizer):
    """An optimizer of one flat tensor per group of weights."""

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        super().__init__(params, defaults)
        self.flat = [_flatten(group["params"]) for group in self.param_groups]
        self.buffer = [torch.empty_like(flat) for flat in self.flat]

    def step(self, closure: Closure) -> float:  # type: ignore[override]
        """Make one step.

        Args:
            closure: computes the gradients, and returns the loss.
        """
        with torch.enable_grad():
            loss = closure()
        for group, flat, buffer in zip(self.param_groups, self.flat, self.buffer, strict=True):
            first = group["params"][0]
            gradients = [
                torch.zeros_like(weight).flatten() if weight.grad is None else weight.grad.flatten()
                for weight in group["params"]
            ]
            self.update(group, self.state[first], flat, torch.cat(gradients), buffer)
        return loss

    def update(
        self, group: dict[str, Any], state: dict[str, Any], weights: Tensor, grad: Tensor, buffer: Tensor
    ) -> None:
        """Change the weights.

        Args:
            group: the options.
            state: of the group, empty before the first step.
            weights: (n,) float32, changed in place.
            grad: (n,), which may be changed.
            buffer: (n,), of any values.
        """
        raise NotImplementedError


def _flatten(weights: list[Tensor]) -> Tensor:
    """Make the weights views of one flat tensor, and return it."""
    flat = torch.cat([weight.detach().flatten() for weight in weights])
    at = 0
    for weight in weights:
        weight.data = flat[at : at + weight.numel()].view(weight.shape)
        at += weight.numel()
    return flat


class SGD(Flat):
    """Stochastic gradient descent with momentum, dampening and Nesterov's variant, as `torch.optim.SGD`."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov})

    def update(
        self, group: dict[str, Any], state: dict[str, Any], weights: Tensor, grad: Tensor, buffer: Tensor
    ) -> None:
        momentum = group["momentum"]
        if group["weight_decay"]:
            grad.add_(torch.mul(weights, group["weight_decay"], out=buffer))
        if momentum:
            if "momentum_buffer" not in state:
                velocity = state["momentum_buffer"] = grad.clone()
            else:
                velocity = state["momentum_buffer"].mul_(momentum)
                velocity.add_(torch.mul(grad, 1 - group["dampening"], out=buffer) if group["dampening"] else grad)
            if group["nesterov"]:
                grad.add_(torch.mul(velocity, momentum, out=buffer))
            else:
                grad = velocity
        weights.sub_(torch.mul(grad, group["lr"], out=buffer))


class Adam(Flat):
    """Adam (Kingma and Ba 2015), as `torch.optim.Adam`, with weight decay as a part of the gradient.

    The averages are kept without their factors 1 - beta, which are applied with the correction of their bias: two
    operations fewer.
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
    ) -> None:
        for number, beta in enumerate(betas):
            if not 0 <= beta < 1:
                raise ValueError(f"Invalid beta parameter at index {number}: {beta}")
        if not eps >= 0:
            raise ValueError(f"Invalid epsilon value: {eps}")
        options = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad})

    def update(
        self, group: dict[str, Any], state: dict[str, Any], weights: Tensor, grad: Tensor, buffer: Tensor
    ) -> None:
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(weights), "exp_avg_sq": torch.zeros_like(weights)}
            if group["amsgrad"]:
                state["max_exp_avg_sq"] = torch.zeros_like(weights)
        state["step"] += 1
        first, second = group["betas"]
        first_factor = (1 - first) / (1 - power(first, state["step"]))
        second_factor = math.sqrt((1 - second) / (1 - power(second, state["step"])))
        if group["weight_decay"]:
            if self.decoupled:
                weights.mul_(1 - group["lr"] * group["weight_decay"])
            else:
                grad.add_(torch.mul(weights, group["weight_decay"], out=buffer))
        average = state["exp_avg"].mul_(first).add_(grad)
        square = state["exp_avg_sq"].mul_(second).add_(torch.mul(grad, grad, out=buffer))
        if group["amsgrad"]:
            square = torch.maximum(square, state["max_exp_avg_sq"], out=state["max_exp_avg_sq"])
        # NumPy's square root is the processor's, which IEEE 754 fixes; torch's is MKL's on x86-64, which it does not.
        np.sqrt(square.numpy(), out=buffer.numpy())
        # weights - lr * first_factor * average / (second_factor * root + eps); with the factor -1 nothing is fused
        buffer.add_(group["eps"] / second_factor).mul_(second_factor / (group["lr"] * first_factor))
        weights.addcdiv_(average, buffer, value=-1)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), as `torch.optim.AdamW`."""

    decoupled = True


OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW}
