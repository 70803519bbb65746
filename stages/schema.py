"""Write params.schema.json from the parameter models of the five stages.

    python -m stages.schema

Editors complete and explain the keys of params.yaml with it, and every stage checks the whole file against it. A test
keeps it current. Rules between keys are added here; each carries, as `description`, the reason a user is given.
"""

from typing import Any

from stages import cache, download, evaluate, normalize, train
from stages.lib import losses, optimizers
from stages.lib.files import write_text
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
        "allOf": [cnn_rule(), *map(optimizer_rule, optimizers.OPTIMIZERS), *map(loss_rule, losses.LOSSES)],
        "same_length": [["activation", "hidden"]],
    }


def cnn_rule() -> dict[str, Any]:
    """The cnn halves an image twice."""
    reason = "cnn, the model, halves the image twice and needs at least 4 pixels a side"
    return {
        "if": {"properties": {"model": {"const": "cnn"}}},
        "then": {"properties": {"image_size": {"minimum": 4, "description": reason}}},
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
