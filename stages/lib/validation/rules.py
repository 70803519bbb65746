"""The rules of params.schema.json, applied to all parameters.

fastjsonschema compiles the rules of each key. Besides the keywords of JSON Schema (draft 7) a schema may hold
`same_length`: pairs of keys whose lists, where both are lists, have the same number of items.
"""

import json
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import fastjsonschema

from stages.lib.core.errors import UserError, reason
from stages.lib.core.parameters import PARAMETERS, text_of
from stages.lib.core.sealed import unseal
from stages.lib.validation import messages

SCHEMA = Path("params.schema.json")


def check_all(values: Mapping[str, Any]) -> None:
    """Check the values of all keys against `params.schema.json`.

    Raises:
        UserError: one line about the first key that is wrong; or the schema is damaged.
    """
    try:
        schema = unseal(text_of(SCHEMA))
    except ValueError as error:
        raise UserError(f"{SCHEMA}: damaged ({reason(error)}); `make schema` writes it again") from error
    check(values, schema)


def check(values: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Check values against a schema.

    Raises:
        UserError: one line about the first key that is wrong.
    """
    if problem := _problem(values, schema):
        raise UserError(f"{PARAMETERS}: {problem}")


def _problem(values: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """Describe the first value that breaks a rule; empty if none does."""
    properties = schema["properties"]
    for key in values:
        if key not in properties:
            return messages.unknown("key", key, properties)
    for key in properties:
        if key not in values:
            return f"the key `{key}` is missing: {properties[key]['description']}"
    for key, value in values.items():
        if not _finite(value):
            return f"{key}: found {messages.shown(value)}, expected finite numbers"
        if not _valid(value, properties[key]):
            return _mismatch(key, value, properties[key])
    try:
        _compiled(json.dumps({"allOf": schema.get("allOf", [])}))(dict(values))
    except fastjsonschema.JsonSchemaValueException as error:
        key = error.path[1]  # the rule carries its reason as `description`
        return f"{key}: found {messages.shown(values[key])}, but {error.definition.get('description', '')}"
    for first, second in schema.get("same_length", []):
        one, other = values[first], values[second]
        if isinstance(one, list) and isinstance(other, list) and len(one) != len(other):
            return (
                f"{first} has {len(one)} items and {second} has {len(other)}: "
                f"give one item of {first} for each of {second}, or a single one for all"
            )
    return ""


def _mismatch(key: str, value: Any, schema: Mapping[str, Any]) -> str:
    """Describe what is wrong with the value of one key; of a mapping, with its first wrong option."""
    if isinstance(value, dict) and "properties" in schema:
        options = schema["properties"]
        for name, option in value.items():
            if name not in options:
                return f"{key}: {messages.unknown('option', name, options)}"
            if not _valid(option, options[name]):
                return _mismatch(f"{key}.{name}", option, options[name])
    return f"{key}: {messages.mismatch(value, schema)}"


def _valid(value: Any, schema: Mapping[str, Any]) -> bool:
    try:
        _compiled(json.dumps(schema))(value)
    except fastjsonschema.JsonSchemaValueException:
        return False
    return True


@cache  # a sweep checks hundreds of combinations
def _compiled(schema: str) -> Callable[[Any], Any]:
    validate: Callable[[Any], Any] = fastjsonschema.compile(json.loads(schema))
    return validate


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, int | float) or abs(value) <= sys.float_info.max
