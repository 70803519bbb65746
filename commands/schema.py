"""Write params.schema.json from the parameter models of the stages.

    make schema          (python -m commands.schema)

Stage check validates params.yaml with it, and editors complete and explain the keys. A test keeps it current. Rules
across keys are added here; the `description` of each is the reason that a user is shown.
"""

from stages.lib.core.process import run

from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any

from stages import cache, download, evaluate, normalize, train
from stages.lib.arithmetic.mode import PORTABLE
from stages.lib.core.files import write_text
from stages.lib.core.sealed import seal
from stages.lib.datasets.kind import CLASSIFICATION, REGRESSION, TASKS
from stages.lib.datasets.table import DATASETS
from stages.lib.model import networks, torchvision_networks
from stages.lib.training import losses, optimizers
from stages.lib.validation.rules import SCHEMA

STAGES = {"download": download, "normalize": normalize, "cache": cache, "train": train, "evaluate": evaluate}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 7) of params.yaml."""
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
            *step_size_rules(),
            *portable_rules(),
            *(rule for name in optimizers.OPTIMIZERS for rule in optimizer_rules(name)),
            *option_rules("optimizer", optimizers.OPTIMIZERS, optimizers.options, optimizers.OWN_PARAMETERS),
            *option_rules("loss", losses.LOSSES, losses.options),
        ],
        "same_length": [["activation", "hidden"]],
    }


def task_rules() -> list[dict[str, Any]]:
    """Return the data sets and losses that each task takes."""
    loss_rules = {
        CLASSIFICATION: (
            "loss",
            {"enum": [*losses.OF_CLASSES]},
            f"classification takes {', '.join(losses.OF_CLASSES)}",
        ),
        REGRESSION: ("loss", {"enum": [*losses.OF_QUANTITIES]}, f"regression takes {', '.join(losses.OF_QUANTITIES)}"),
    }
    tables = [name for name, dataset in DATASETS.items() if REGRESSION in dataset.tasks]
    reason = f"regression takes the dataset {' or '.join(tables)}: numbers of your own"
    rules = [(REGRESSION, "dataset", {"enum": tables}, reason)]
    rules += [(task, *loss_rules[task]) for task in TASKS]
    return [
        {
            "if": {"properties": {"task": {"const": task}}},
            "then": {"properties": {key: {**allowed, "description": f"task {reason}"}}},
        }
        for task, key, allowed, reason in rules
    ]


def size_rules() -> list[dict[str, Any]]:
    """Return the image sizes that each network takes."""
    rules = []
    for kind, table in (("minimum", networks.SMALLEST), ("multipleOf", torchvision_networks.PATCHES)):
        for size in sorted(set(table.values())):
            models = [name for name, required in table.items() if required == size]
            sizes = f"at least {size}" if kind == "minimum" else f"a multiple of {size}"
            reason = f"this model takes images of {sizes} pixels a side"
            then = {"properties": {"image_size": {kind: size, "description": reason}}}
            rules.append({"if": {"properties": {"model": {"enum": models}}}, "then": then})
    return rules


def mixup_rule() -> dict[str, Any]:
    """Return the losses that take mixup's targets, shares of two classes: of those of classes only cross-entropy."""
    fitting = ["CrossEntropyLoss", *losses.OF_QUANTITIES]
    reason = "augmentation.mixup needs the loss CrossEntropyLoss"
    return {
        "if": {
            "properties": {"augmentation": {"required": ["mixup"], "properties": {"mixup": {"exclusiveMinimum": 0}}}}
        },
        "then": {"properties": {"loss": {"enum": fitting, "description": reason}}},
    }


def step_size_rules() -> list[dict[str, Any]]:
    """Return the rules that there is no schedule for an optimizer with step sizes of its own."""
    of_own = {"if": {"properties": {"optimizer": {"enum": [*optimizers.OWN_STEP_SIZES]}}}}
    reason = "has step sizes of its own, and lr is the first: it follows no schedule"
    allowed: dict[str, dict[str, Any]] = {"schedule": {"const": "constant"}, "warmup": {"enum": [None, 0]}}
    names = ", ".join(optimizers.OWN_STEP_SIZES)
    return [
        {**of_own, "then": {"properties": {key: {**rule, "description": f"{names} {reason}"}}}}
        for key, rule in allowed.items()
    ]


def portable_rules() -> list[dict[str, Any]]:
    """Return what portable arithmetic takes."""

    def rule(allowed: dict[str, Any], missing: str) -> dict[str, Any]:
        way_out = "choose another, or set arithmetic to native"
        return {**allowed, "description": f"portable arithmetic has no {missing}: {way_out}"}

    of_torch = {
        option: rule({"type": "null"}, f"optimizer_args.{option}")
        for option in ("foreach", "fused", "decoupled_weight_decay")
    }
    rules = {
        "compile": rule({"const": False}, "compiled networks"),
        "model": rule({"not": {"enum": [*torchvision_networks.TRANSFORMERS]}}, "transformers"),
        "optimizer": rule({"enum": [*optimizers.IN_PORTABLE]}, f"optimizers but {', '.join(optimizers.IN_PORTABLE)}"),
        "optimizer_args": {"properties": of_torch},
        "precision": rule({"const": "float32"}, "precision but float32"),
    }
    portable = {"properties": {"arithmetic": {"const": PORTABLE}}}
    return [{"if": portable, "then": {"properties": {key: allowed}}} for key, allowed in rules.items()]


def option_rules(
    key: str, names: Iterable[str], options_of: Callable[[str], set[str]], excluded: Set[str] = frozenset()
) -> Iterator[dict[str, Any]]:
    """Yield the rules that an option in the mapping `<key>_args` is null, or `key` names a class that takes it."""
    classes_with: dict[str, list[str]] = {}
    for name in names:
        for option in options_of(name) - excluded:
            classes_with.setdefault(option, []).append(name)
    for option, classes in sorted(classes_with.items()):
        is_set = {"required": [option], "properties": {option: {"not": {"type": "null"}}}}
        reason = f"{key}_args.{option} is an option of {', '.join(classes)}: set it to null, or choose another {key}"
        yield {
            "if": {"properties": {f"{key}_args": is_set}},
            "then": {"properties": {key: {"enum": classes, "description": reason}}},
        }


def optimizer_rules(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rules that momentum and weight decay are 0 for an optimizer that does not take them."""
    for option in sorted({"weight_decay", "momentum"} - optimizers.options(name)):
        reason = f"{name} takes no {option}: set it to 0, or choose another optimizer"
        yield {
            "if": {"properties": {"optimizer": {"const": name}}},
            "then": {"properties": {option: {"const": 0, "description": reason}}},
        }


if __name__ == "__main__":
    run(lambda: write_text(SCHEMA, seal(schema())))
