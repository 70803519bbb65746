"""Any optimizer of `torch.optim` that trains an ordinary network, by its name."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from stages.lib.core.errors import UserError, reason

# SparseAdam takes sparse gradients only, Muon matrices only: neither trains a network with biases by itself.
OPTIMIZERS = sorted(
    name
    for name, member in vars(torch.optim).items()
    if inspect.isclass(member)
    and issubclass(member, torch.optim.Optimizer)
    and name not in {"Optimizer", "SparseAdam", "Muon"}
)
# Reached by parameters of their own, or no choice of a user: `maximize` would climb instead of descend.
OWN_PARAMETERS = {"lr", "weight_decay", "momentum"}
# One kernel for the whole step; Adam's takes a third of the time of its default on a CPU.
FUSED = {"Adam", "AdamW", "Adagrad", "SGD"}
EXCLUDED = {"self", "params", "maximize", "capturable", "differentiable"}

# The values of the options that params.yaml lists, as JSON Schema; null is the optimizer's own default.
NULL = {"type": "null"}
SHARE = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
SWITCH = {"anyOf": [NULL, {"type": "boolean"}], "description": "whether it is on"}
OPTIONS: dict[str, Any] = {
    "betas": {
        "anyOf": [NULL, {"type": "array", "items": SHARE, "minItems": 2, "maxItems": 2}],
        "description": "decay of the running averages, per step",
    },
    "eps": {
        "anyOf": [NULL, {"type": "number", "minimum": 0}, {"type": "array", "items": {"type": ["number", "null"]}}],
        "description": "added to the denominator; of Adafactor two numbers",
    },
    "amsgrad": SWITCH,
    "alpha": {"anyOf": [NULL, {"type": "number", "minimum": 0}], "description": "decay of the average, per step"},
    "centered": SWITCH,
    "dampening": {"anyOf": [NULL, {"type": "number"}], "description": "share by which the momentum is dampened"},
    "nesterov": SWITCH,
}


def options(name: str) -> set[str]:
    """The keyword arguments that an optimizer takes, `lr` and its like among them."""
    return set(inspect.signature(getattr(torch.optim, name)).parameters) - EXCLUDED


def all_options() -> dict[str, Any]:
    """What `optimizer_args` of params.yaml may hold, as JSON Schema: the options of all optimizers."""
    known = sorted(set().union(*map(options, OPTIMIZERS)) - OWN_PARAMETERS)
    return {option: OPTIONS.get(option, {}) for option in known}


def build(
    name: str,
    weights: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    arguments: Mapping[str, Any],
) -> torch.optim.Optimizer:
    """An optimizer over the weights.

    `weight_decay` and `momentum` are passed on wherever the optimizer takes them, so that 0 means none, also for AdamW,
    whose own default is 0.01.

    Raises:
        UserError: the optimizer refuses the value of an option.
    """
    spare_the_compiler()
    own = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
    own = {option: value for option, value in own.items() if option in options(name)}
    if name in FUSED and not arguments.keys() & {"fused", "foreach"}:
        own["fused"] = True
    make = getattr(torch.optim, name)
    try:
        # Some values are refused by the first step only: try one, on a weight that is thrown away.
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.ones(1)
        step_of(make([weight], **own, **arguments))(lambda: 1.0)
        optimizer: torch.optim.Optimizer = make(weights, **own, **arguments)
    except Exception as error:  # whatever torch raises, the cause is in these values
        raise UserError(
            f"params.yaml: {name} refuses {own | dict(arguments)}: {reason(error)}; change that option"
        ) from error
    return optimizer


def step_of(optimizer: torch.optim.Optimizer) -> Callable[[Callable[[], float]], float]:
    """The optimizer's step by itself: takes a closure that computes gradients and gives the loss, which it gives back.

    torch wraps each step for its compiler and its profiler, which are not used here: importing the compiler takes more
    than a second, and the wrappers take as long at each step as the smallest layers.
    """
    step: Callable[..., float] = inspect.unwrap(type(optimizer).step)

    def plain(closure: Callable[[], float]) -> float:
        with torch.no_grad():  # as the wrapper does; the step itself calls the closure with gradients on
            return step(optimizer, closure)

    return plain


def spare_the_compiler() -> None:
    """Keep three other methods from importing it: at its first call their wrapper imports the compiler, and notes
    beside the method what is to be called instead. Here the method itself is noted.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None:
            vars(method).setdefault("__dynamo_disable", method)
