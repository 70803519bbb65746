"""The losses: from logits (B, classes) and class numbers (B,) to the mean over the batch.

Any loss of `torch.nn` of this kind, by its name. One of your own joins by a class here and a line in LOSSES; its
arguments are those of `loss_args`.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from stages.lib.stage import UserError, reason

# The other losses of torch.nn want something else than logits and class numbers: log-probabilities, pairs, sequences,
# or the real numbers of a regression.
LOSSES: dict[str, type[nn.Module]] = {
    "CrossEntropyLoss": nn.CrossEntropyLoss,
    "MultiMarginLoss": nn.MultiMarginLoss,
}
EXCLUDED = {"self", "size_average", "reduce", "reduction", "ignore_index"}  # out of date, or ours to say
BALANCED = "balanced"


def options(name: str) -> set[str]:
    """The keyword arguments that a loss takes."""
    return set(inspect.signature(LOSSES[name]).parameters) - EXCLUDED


def build(name: str, arguments: Mapping[str, Any], targets: Tensor, classes: int) -> nn.Module:
    """A loss.

    Args:
        name: in LOSSES.
        arguments: its own. `weight: balanced` gives each class a weight in inverse proportion to its rows, the mean
            over all rows being 1; a list gives one number for each class.
        targets: (N,) class numbers of the training split.
        classes: how many there are.

    Raises:
        UserError: the loss refuses a value.
    """
    values = dict(arguments)
    try:
        if values.get("weight") == BALANCED:
            counts = torch.bincount(targets, minlength=classes)
            values["weight"] = len(targets) / (classes * counts)
        elif "weight" in values:
            values["weight"] = torch.tensor(values["weight"], dtype=torch.float32)
        loss = LOSSES[name](**values)
        loss(torch.zeros(1, classes), torch.zeros(1, dtype=torch.int64))  # some values are refused only here
    except Exception as error:  # whatever torch raises, the cause is in these values
        raise UserError(f"params.yaml: {name} refuses {dict(arguments)}: {reason(error)}; change loss_args") from error
    return loss
