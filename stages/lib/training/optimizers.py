"""The optimizers of `torch.optim` by their names.

To add an optimizer, write a subclass of `torch.optim.Optimizer` here and append `| {"Name": Name}` to OPTIMIZERS. Its
first argument is `params`; the others are `optimizer_args`, and lr, weight_decay and momentum if it takes them. Its
`step(closure)` calls the closure once or more with gradients enabled and returns the first loss.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from stages.lib.arithmetic.mode import NATIVE, PORTABLE
from stages.lib.core.errors import UserError, reason
from stages.lib.training import portable_optimizers
from stages.lib.training.muon import Muon

# SparseAdam takes sparse gradients only, torch's Muon matrices only: neither can train a network with biases.
OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {
    name: member
    for name, member in sorted(vars(torch.optim).items())
    if inspect.isclass(member)
    and issubclass(member, torch.optim.Optimizer)
    and name not in {"Optimizer", "SparseAdam", "Muon"}
} | {"Muon": Muon}
# Of torch's, portable arithmetic has some; of those added here, it takes any in which the guard finds nothing.
IN_PORTABLE = [name for name in OPTIMIZERS if name in portable_optimizers.OPTIMIZERS or not hasattr(torch.optim, name)]
OWN_PARAMETERS = {"lr", "weight_decay", "momentum"}  # keys of params.yaml, not of optimizer_args
# Optimizers with a kernel for the whole step: on a CPU Adam's takes a third of the time of the default.
FUSED = {"Adam", "AdamW", "Adagrad", "SGD"}
OWN_STEP_SIZES = ("Rprop",)  # they use lr at the first step alone
# Not for users: `maximize` would ascend the gradient.
EXCLUDED = {"self", "params", "maximize", "capturable", "differentiable"}

# The values of the options that params.yaml lists, as JSON Schema; null is the optimizer's default.
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
        "description": "added to the denominator; two numbers for Adafactor",
    },
    "amsgrad": SWITCH,
    "alpha": {"anyOf": [NULL, {"type": "number", "minimum": 0}], "description": "decay of the average, per step"},
    "centered": SWITCH,
    "dampening": {"anyOf": [NULL, {"type": "number"}], "description": "share by which the momentum is dampened"},
    "nesterov": SWITCH,
    "ns_steps": {
        "anyOf": [NULL, {"type": "integer", "minimum": 1, "maximum": 99}],
        "description": "iterations that make a step orthogonal",
    },
}


def options(name: str) -> set[str]:
    """Return the keyword arguments of an optimizer, including `lr`, `weight_decay` and `momentum`."""
    return set(inspect.signature(OPTIMIZERS[name]).parameters) - EXCLUDED


def all_options() -> dict[str, Any]:
    """Return the JSON Schema of `optimizer_args`: the options of all optimizers."""
    names = sorted(set().union(*map(options, OPTIMIZERS)) - OWN_PARAMETERS)
    return {option: OPTIONS.get(option, {}) for option in names}


def build(
    name: str,
    weights: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    momentum: float,
    arguments: Mapping[str, Any],
    arithmetic: str = NATIVE,
) -> torch.optim.Optimizer:
    """Build an optimizer of the weights.

    `weight_decay` and `momentum` are passed to every optimizer that takes them, so that 0 means none, also for AdamW,
    whose default weight decay is 0.01. In portable arithmetic SGD, Adam and AdamW are those of `portable_optimizers`.

    Raises:
        UserError: the optimizer rejects the value of an option.
    """
    avoid_importing_compiler()
    make: Callable[..., torch.optim.Optimizer] = OPTIMIZERS[name]
    options_given = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum}
    options_given = {option: value for option, value in options_given.items() if option in options(name)}
    if arithmetic == PORTABLE:
        make = portable_optimizers.OPTIMIZERS.get(name, make)
    elif name in FUSED and not arguments.keys() & {"fused", "foreach"}:
        options_given["fused"] = True
    try:
        # Some values are rejected by the first step only: make one, on a weight that is thrown away.
        weight = torch.nn.Parameter(torch.zeros(1))
        weight.grad = torch.ones(1)
        plain_step(make([weight], **options_given, **arguments))(lambda: 1.0)
        optimizer = make(weights, **options_given, **arguments)
    except Exception as error:  # whatever torch raises, these values are the cause
        raise UserError(
            f"params.yaml: {name} rejects {options_given | dict(arguments)}: {reason(error)}; change that option"
        ) from error
    return optimizer


def plain_step(optimizer: torch.optim.Optimizer) -> Callable[[Callable[[], float]], float]:
    """Return the optimizer's step without torch's wrappers: it takes a closure that computes gradients and the loss.

    torch wraps each step for its compiler and its profiler, which are not used here: importing the compiler takes more
    than a second, and at each step the wrappers take as long as the smallest layers. Tests check that the step gives
    the same weights as the wrapped one, and that training imports no compiler.
    """
    unwrapped: Callable[..., float] = inspect.unwrap(type(optimizer).step)

    def step(closure: Callable[[], float]) -> float:
        with torch.no_grad():  # as the wrapper does; the step itself calls the closure with gradients enabled
            return unwrapped(optimizer, closure)

    return step


def avoid_importing_compiler() -> None:
    """Keep three methods of `Optimizer` from importing torch's compiler.

    At the first call their wrapper imports it and stores, as an attribute of the method, what to call from then on.
    Storing the method itself there skips the import.
    """
    for name in ("add_param_group", "state_dict", "load_state_dict"):
        method = getattr(getattr(torch.optim.Optimizer, name), "__wrapped__", None)
        if method is not None:
            vars(method).setdefault("__dynamo_disable", method)
