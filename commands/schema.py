"""Write params.schema.json from the parameter models of the stages.

    python -m commands.schema

Editors complete and explain the keys of params.yaml with it, and every stage checks the whole file against it. A test
keeps it current. Rules between keys are added here; each carries, as `description`, the reason a user is given.
"""

from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from stages import cache, download, evaluate, normalize, train
from stages.lib.core.files import write_text
from stages.lib.core.parameters import SCHEMA
from stages.lib.core.sealed import seal
from stages.lib.datasets.kind import CLASSIFICATION, REGRESSION, TASKS
from stages.lib.datasets.table import DATASETS
from stages.lib.model import networks, torchvision_networks
from stages.lib.training import losses, optimizers

STAGES = {"download": download, "normalize": normalize, "cache": cache, "train": train, "evaluate": evaluate}


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 7) of params.yaml."""
    properties: dict[str, Any] = {}
    for stage in STAGES.values():
        for key, field in stage.Parameters.model_json_schema()["properties"].items():
            field.pop("title")
            properties[key] = field
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "params.yaml",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
        "allOf": [
            *task_rules(),
            *size_rules(),
            mixup_rule(),
            *(rule for name in optimizers.OPTIMIZERS for rule in optimizer_rules(name)),
            *option_rules("optimizer", optimizers.OPTIMIZERS, optimizers.options, optimizers.OWN_PARAMETERS),
            *option_rules("loss", losses.LOSSES, losses.options),
        ],
        "same_length": [["activation", "hidden"]],
    }


def task_rules() -> list[dict[str, Any]]:
    """Regression wants numbers, which a table alone gives, and a loss of them; classification a loss of classes."""
    wanted = {
        CLASSIFICATION: (
            "loss",
            {"enum": [*losses.OF_CLASSES]},
            f"classification takes {', '.join(losses.OF_CLASSES)}",
        ),
        REGRESSION: ("loss", {"enum": [*losses.OF_QUANTITIES]}, f"regression takes {', '.join(losses.OF_QUANTITIES)}"),
    }
    tables = [name for name, dataset in DATASETS.items() if REGRESSION in dataset.tasks]
    own = f"regression takes the dataset {' or '.join(tables)}: numbers of your own"
    rules = [(REGRESSION, "dataset", {"enum": tables}, own)]
    rules += [(task, *wanted[task]) for task in TASKS]
    return [
        {
            "if": {"properties": {"task": {"const": task}}},
            "then": {"properties": {key: {**allowed, "description": f"task {reason}"}}},
        }
        for task, key, allowed, reason in rules
    ]


def size_rules() -> list[dict[str, Any]]:
    """What a network asks of the images' size."""
    rules = []
    for kind, table in (("minimum", networks.SMALLEST), ("multipleOf", torchvision_networks.PIECES)):
        for size in sorted(set(table.values())):
            models = [name for name, its in table.items() if its == size]
            wants = f"at least {size}" if kind == "minimum" else f"a multiple of {size}"
            reason = f"this model wants images of {wants} pixels a side"
            then = {"properties": {"image_size": {kind: size, "description": reason}}}
            rules.append({"if": {"properties": {"model": {"enum": models}}}, "then": then})
    return rules


def mixup_rule() -> dict[str, Any]:
    """Mixup asks for shares of two classes, which of their losses only cross-entropy can be given."""
    fitting = ["CrossEntropyLoss", *losses.OF_QUANTITIES]
    reason = "augmentation.mixup wants the loss CrossEntropyLoss"
    return {
        "if": {
            "properties": {"augmentation": {"required": ["mixup"], "properties": {"mixup": {"exclusiveMinimum": 0}}}}
        },
        "then": {"properties": {"loss": {"enum": fitting, "description": reason}}},
    }


def option_rules(
    key: str, names: Iterable[str], taken_by: Callable[[str], set[str]], excluded: Set[str] = frozenset()
) -> Iterator[dict[str, Any]]:
    """An option in the mapping `<key>_args` is null, or `key` names a class that takes it."""
    takers: dict[str, list[str]] = {}
    for name in names:
        for option in taken_by(name) - excluded:
            takers.setdefault(option, []).append(name)
    for option, able in sorted(takers.items()):
        given = {"required": [option], "properties": {option: {"not": {"type": "null"}}}}
        reason = f"{key}_args.{option} is an option of {', '.join(able)}: set it to null, or choose another {key}"
        yield {
            "if": {"properties": {f"{key}_args": given}},
            "then": {"properties": {key: {"enum": able, "description": reason}}},
        }


def optimizer_rules(name: str) -> Iterator[dict[str, Any]]:
    """An optimizer is given momentum and weight decay only where it takes them."""
    for option in sorted({"weight_decay", "momentum"} - optimizers.options(name)):
        reason = f"{name} takes no {option}: set it to 0, or choose another optimizer"
        yield {
            "if": {"properties": {"optimizer": {"const": name}}},
            "then": {"properties": {option: {"const": 0, "description": reason}}},
        }


if __name__ == "__main__":
    write_text(SCHEMA, seal(schema()))
