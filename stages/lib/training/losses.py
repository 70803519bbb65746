"""The losses of `torch.nn` by their names, each the mean over a batch.

classification: of logits (B, classes) and class numbers (B,) int64
regression:     of outputs (B, quantities) and standardized quantities (B, quantities), both float32

To add a loss, write a class here and add a line to the table of its task; it receives `loss_args` as arguments.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.core.errors import UserError, reason
from stages.lib.model.distributed import Group

LossFunction = Callable[[Tensor, Tensor], Tensor]  # outputs and targets of a batch -> the mean loss

# The other losses of torch.nn take other inputs: log-probabilities, counts, pairs, sequences.
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
EXCLUDED = {"self", "size_average", "reduce", "reduction", "ignore_index"}  # deprecated, or fixed here
BALANCED = "balanced"
# The values of the options of torch.nn's losses, as JSON Schema; null is the loss's default.
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
        "description": "share of the target that is spread over all classes",
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
    """Return the keyword arguments of a loss."""
    return set(inspect.signature(LOSSES[name]).parameters) - EXCLUDED


def all_options() -> dict[str, Any]:
    """Return the JSON Schema of `loss_args`: the options of all losses."""
    return {option: OPTIONS.get(option, {}) for option in sorted(set().union(*map(options, LOSSES)))}


def build(name: str, arguments: Mapping[str, Any], targets: Tensor, outputs: int) -> nn.Module:
    """Build a loss.

    Args:
        name: in LOSSES, for the task of the targets.
        arguments: its options. `weight: balanced` weights each class in inverse proportion to its rows, with mean 1
            over all rows; a list gives one number per class.
        targets: of the training split, as `tasks.loss_targets` returns them: (N,) or (N, quantities).
        outputs: number of classes or quantities.

    Raises:
        UserError: the loss rejects a value.
    """
    values = dict(arguments)
    try:
        if values.get("weight") == BALANCED:
            counts = torch.bincount(targets, minlength=outputs)
            values["weight"] = len(targets) / (outputs * counts)
        elif "weight" in values:
            values["weight"] = torch.tensor(values["weight"], dtype=torch.float32)
        loss = LOSSES[name](**values)
        loss(torch.zeros(1, outputs), torch.zeros_like(targets[:1]))  # some values are rejected only here
    except Exception as error:  # whatever torch raises, these values are the cause
        raise UserError(f"params.yaml: {name} rejects {dict(arguments)}: {reason(error)}; change loss_args") from error
    return loss


def for_rank(loss: nn.Module, targets: Tensor, group: Group) -> LossFunction:
    """Scale a loss so that DDP's averaged gradient equals the gradient of the mean over the whole batch.

    Args:
        loss: the mean over the rows that it is given.
        targets: of the whole batch: (B,) or (B, quantities).
        group: the ranks that share the batch.
    """
    rows = len(targets)
    if group.size == 1:
        return of_rows_that_count(loss, denominator(loss, targets))
    of_rank = denominator(loss, targets[group.rows_of(rows)]) if group.counts(rows) else 0.0
    if not of_rank:
        return nothing
    scale = group.size * of_rank / denominator(loss, targets)
    return lambda outputs, rank_targets: loss(outputs, rank_targets) * scale


def of_rows_that_count(loss: LossFunction, denominator: float) -> LossFunction:
    """Return the loss, or 0 where it would divide by 0: every row is of a class whose weight is 0."""
    return loss if denominator else nothing


def nothing(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return a loss of 0, whose gradients are 0."""
    return (outputs * 0.0).sum()


def denominator(loss: nn.Module, targets: Tensor) -> float:
    """Return what a loss divides by to give the mean: the number of targets, or the sum of their class weights."""
    if isinstance(loss, nn.CrossEntropyLoss) and loss.weight is not None and targets.dtype == torch.int64:
        return math.fsum(loss.weight[targets].tolist())
    return len(targets)
