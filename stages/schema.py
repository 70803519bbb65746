"""Write params.schema.json from the parameter models of the five stages.

    python -m stages.schema

Editors complete and explain the keys of params.yaml with it, and every stage checks the whole file against it. A test
keeps it current. Rules between keys are added here; each carries, as `description`, the reason a user is given.
"""

from typing import Any

from stages import cache, download, evaluate, normalize, train
from stages.lib import augmentation, losses, networks, optimizers, torchvision_networks
from stages.lib.datasets import DATASETS, Own
from stages.lib.files import write_text
from stages.lib.labels import CLASSIFICATION, REGRESSION, TASKS
from stages.lib.parameters import SCHEMA
from stages.lib.sealed import seal

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
            augmentation_rule(),
            mixup_rule(),
            *map(optimizer_rule, optimizers.OPTIMIZERS),
            *map(loss_rule, losses.LOSSES),
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
    tables = [name for name, dataset in DATASETS.items() if isinstance(dataset, Own) and dataset.labels != "folders"]
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


def augmentation_rule() -> dict[str, Any]:
    """The augmentations and their ranges."""
    options = {
        "properties": augmentation.OPTIONS,
        "additionalProperties": False,
        "description": f"augmentation takes {', '.join(augmentation.OPTIONS)}",
    }
    return {"properties": {"augmentation": options}}


def mixup_rule() -> dict[str, Any]:
    """Mixup asks for shares of two classes, which of their losses only cross-entropy can be given."""
    fitting = ["CrossEntropyLoss", *losses.OF_QUANTITIES]
    reason = "mixup, an augmentation, wants the loss CrossEntropyLoss"
    return {
        "if": {"properties": {"augmentation": {"required": ["mixup"]}}},
        "then": {"properties": {"loss": {"enum": fitting, "description": reason}}},
    }


def loss_rule(name: str) -> dict[str, Any]:
    """A loss takes its own options."""
    taken = sorted(losses.options(name))
    options: dict[str, Any] = {
        "properties": {option: {} for option in taken},
        "additionalProperties": False,
        "description": f"{name} takes {', '.join(taken)}",
    }
    return {"if": {"properties": {"loss": {"const": name}}}, "then": {"properties": {"loss_args": options}}}


def optimizer_rule(name: str) -> dict[str, Any]:
    """An optimizer takes its own options, and momentum and weight decay only where it knows them."""
    taken = optimizers.options(name)
    others = sorted(taken - optimizers.OWN_PARAMETERS)
    allowed: dict[str, Any] = {
        "optimizer_args": {
            "properties": {option: {} for option in others},
            "additionalProperties": False,
            "description": f"{name} takes {', '.join(others)}",
        }
    }
    for option in ("weight_decay", "momentum"):
        if option not in taken:
            reason = f"{name} takes no {option}: set it to 0, or choose another optimizer"
            allowed[option] = {"const": 0, "description": reason}
    return {"if": {"properties": {"optimizer": {"const": name}}}, "then": {"properties": allowed}}


if __name__ == "__main__":
    write_text(SCHEMA, seal(schema()))
