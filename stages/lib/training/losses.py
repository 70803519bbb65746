"""The losses, each the mean over the batch, by their names in `torch.nn`.

classification: of logits (B, classes) and class numbers (B,) int64
regression:     of outputs (B, quantities) and standardized quantities (B, quantities), both float32

One of your own joins by a class here and a line in the table of its task; its arguments are those of `loss_args`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.core.errors import UserError, reason

# The other losses of torch.nn want something else: log-probabilities, counts, pairs, sequences.
OF_CLASSES: dict[str, type[nn.Module]] = {
    "CrossEntropyLoss": nn.CrossEntropyLoss,
    "MultiMarginLoss": nn.MultiMarginLoss,
}
OF_QUANTITIES: dict[str, type[nn.Module]] = {
    "MSELoss": nn.MSELoss,
    "L1Loss": nn.L1Loss,
    "HuberLoss": nn.HuberLoss,
    "SmoothL1Loss": nn.SmoothL1Loss,
}
LOSSES = OF_CLASSES | OF_QUANTITIES
EXCLUDED = {"self", "size_average", "reduce", "reduction", "ignore_index"}  # out of date, or ours to say
BALANCED = "balanced"
# The values of the options of torch.nn's losses, as JSON Schema; null is the loss's own default.
NULL = {"type": "null"}
OPTIONS: dict[str, Any] = {
    "weight": {
        "anyOf": [
            NULL,
            {"type": "string", "enum": [BALANCED]},
            {"type": "array", "items": {"type": "number", "minimum": 0}},
        ],
        "description": "weight of each class",
    },
    "label_smoothing": {
        "anyOf": [NULL, {"type": "number", "minimum": 0, "maximum": 1}],
        "description": "share of the target that all classes get",
    },
    "margin": {"anyOf": [NULL, {"type": "number"}], "description": "margin between the classes' outputs"},
    "p": {"anyOf": [NULL, {"type": "integer", "minimum": 1, "maximum": 2}], "description": "exponent"},
    "delta": {
        "anyOf": [NULL, {"type": "number", "exclusiveMinimum": 0}],
        "description": "error from which on the loss is linear, in standard deviations",
    },
    "beta": {
        "anyOf": [NULL, {"type": "number", "minimum": 0}],
        "description": "error from which on the loss is linear, in standard deviations",
    },
}


def options(name: str) -> set[str]:
    """The keyword arguments that a loss takes."""
    return set(inspect.signature(LOSSES[name]).parameters) - EXCLUDED


def all_options() -> dict[str, Any]:
    """What `loss_args` of params.yaml may hold, as JSON Schema: the options of all losses."""
    return {option: OPTIONS.get(option, {}) for option in sorted(set().union(*map(options, LOSSES)))}


def build(name: str, arguments: Mapping[str, Any], targets: Tensor, outputs: int) -> nn.Module:
    """A loss.

    Args:
        name: in LOSSES, of the task that the targets belong to.
        arguments: its own. `weight: balanced` gives each class a weight in inverse proportion to its rows, the mean
            over all rows being 1; a list gives one number for each class.
        targets: what the training split wants: (N,) class numbers, or (N, quantities).
        outputs: how many classes or quantities there are.

    Raises:
        UserError: the loss refuses a value.
    """
    values = dict(arguments)
    try:
        if values.get("weight") == BALANCED:
            counts = torch.bincount(targets, minlength=outputs)
            values["weight"] = len(targets) / (outputs * counts)
        elif "weight" in values:
            values["weight"] = torch.tensor(values["weight"], dtype=torch.float32)
        loss = LOSSES[name](**values)
        loss(torch.zeros(1, outputs), torch.zeros_like(targets[:1]))  # some values are refused only here
    except Exception as error:  # whatever torch raises, the cause is in these values
        raise UserError(f"params.yaml: {name} refuses {dict(arguments)}: {reason(error)}; change loss_args") from error
    return loss


def counted(loss: nn.Module, targets: Tensor) -> float:
    """By what a loss divides to give the mean over these targets: their number, or the weights of their classes."""
    if isinstance(loss, nn.CrossEntropyLoss) and loss.weight is not None and targets.dtype == torch.int64:
        return float(loss.weight[targets].sum())
    return len(targets)
