"""Muon (Jordan et al. 2024): steps of which every direction is as long, for the matrices and filters of hidden layers.

AdamW changes all other weights: those of the output layer, biases, and of normalizations. `torch.optim.Muon` takes
matrices alone and computes in bfloat16, which few processors do quickly.
"""

import inspect
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of Jordan et al.: singular values end between 0.7 and 1.2
RMS = 0.2  # of a step relative to lr, that of AdamW: both take the same lr (Liu et al. 2025)


class Muon(torch.optim.AdamW):
    """Muon for weights of two dimensions or more, without the last of them, and AdamW for all others."""

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_steps: int = 5,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, fused=True)
        self.momentum, self.nesterov, self.ns_steps = momentum, nesterov, ns_steps
        self.matrices = [weight for group in self.param_groups for weight in group["params"] if weight.ndim > 1][:-1]

    @torch.no_grad()
    def step(self, closure: Callable[[], float]) -> float:  # type: ignore[override]
        """Make one step.

        Args:
            closure: computes the gradients, and returns the loss.
        """
        with torch.enable_grad():
            loss = closure()
        gradients = [weight.grad for weight in self.matrices]
        for weight in self.matrices:
            weight.grad = None  # AdamW leaves out weights without a gradient
        inspect.unwrap(torch.optim.AdamW.step)(self)
        lr, weight_decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        for weight, gradient in zip(self.matrices, gradients, strict=True):
            if gradient is not None:
                matrix = orthogonal(self._velocity(weight, gradient).flatten(1), self.ns_steps)
                length = RMS * math.sqrt(max(matrix.shape))
                weight.mul_(1 - lr * weight_decay).sub_(matrix.view_as(weight), alpha=lr * length)
        return loss

    def _velocity(self, weight: Tensor, gradient: Tensor) -> Tensor:
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state |= {"momentum_buffer": torch.zeros_like(weight), "step": torch.zeros(())}  # AdamW loads a step
        velocity: Tensor = state["momentum_buffer"].mul_(self.momentum).add_(gradient)
        return gradient.add(velocity, alpha=self.momentum) if self.nesterov else velocity


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Return nearly U V^T of a matrix U S V^T: all its singular values become about 1.

    Args:
        matrix: (m, n).
        steps: of Newton and Schulz's iteration, which takes products of matrices only.
    """
    first, third, fifth = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(steps):
        square = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(square, square, square, beta=third, alpha=fifth), wide, beta=first)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
