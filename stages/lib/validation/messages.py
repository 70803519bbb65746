"""Refusing values of params.yaml, each with one line: what was found, what is expected, the nearest name.

The schema says what is right; this module only finds the words. Besides the keywords of JSON Schema (draft 7) a schema
may hold `same_length`: pairs of keys whose lists, where both are lists, have the same number of items.
"""

import difflib
import json
import sys
from collections.abc import Callable, Collection, Mapping
from functools import cache
from typing import Any

import fastjsonschema

from stages.lib.core.errors import UserError

MOST_NAMED = 12
_IF_NEW = " (one that is new in the code is known after `make schema`)"


def check(values: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Refuse values that do not fit the schema.

    Raises:
        UserError: one line about the first key that does not fit.
    """
    properties = schema["properties"]
    for key in values:
        if key not in properties:
            hint = _nearest(str(key), properties)
            raise UserError(f"params.yaml: unknown key `{key}`{hint}{_IF_NEW}")
    for key in properties:
        if key not in values:
            raise UserError(f"params.yaml: the key `{key}` is missing: {properties[key]['description']}")
    for key, value in values.items():
        if not _finite(value):
            raise UserError(f"params.yaml: {key}: found {_shown(value)}, expected finite numbers")
        try:
            _validator(properties[key])(value)
        except fastjsonschema.JsonSchemaValueException as error:
            raise UserError(f"params.yaml: {_mismatch(key, value, properties[key])}") from error
    try:
        _validator({"allOf": schema.get("allOf", [])})(dict(values))
    except fastjsonschema.JsonSchemaValueException as error:
        raise UserError(f"params.yaml: {_conflict(error, values)}") from error
    for first, second in schema.get("same_length", []):
        one, other = values[first], values[second]
        if isinstance(one, list) and isinstance(other, list) and len(one) != len(other):
            raise UserError(
                f"params.yaml: {first} has {len(one)} items and {second} has {len(other)}: "
                f"give one item of {first} for each of {second}, or a single one for all"
            )


def _validator(schema: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Compile a schema, each once: a sweep checks hundreds of combinations."""
    return _compiled(json.dumps(schema))


@cache
def _compiled(schema: str) -> Callable[[Any], Any]:
    validate: Callable[[Any], Any] = fastjsonschema.compile(json.loads(schema))
    return validate


def _mismatch(key: str, value: Any, schema: Mapping[str, Any]) -> str:
    """What is wrong with the value of one key by itself; of a mapping, with its first option that is wrong."""
    if isinstance(value, dict) and "properties" in schema:
        options = schema["properties"]
        for name, option in value.items():
            if name not in options:
                hint = _nearest(str(name), options) or f"; expected one of {_listed(options)}"
                return f"{key}: unknown option `{name}`{hint}{_IF_NEW}"
            try:
                _validator(options[name])(option)
            except fastjsonschema.JsonSchemaValueException:
                return _mismatch(f"{key}.{name}", option, options[name])
    return f"{key}: {_problem(value, schema)}"


def _problem(value: Any, schema: Mapping[str, Any]) -> str:
    """What is wrong with one value."""
    choices = _choices(schema)
    for name in value if isinstance(value, list) else [value]:
        if choices and isinstance(name, str) and name not in choices:
            hint = _nearest(name, choices) or f"; expected one of {_listed(choices)}"
            return f"unknown name `{name}`{hint}{_IF_NEW}"
    return f"found {_shown(value)}, expected {_expected(schema)} ({schema['description']})"


def _conflict(error: fastjsonschema.JsonSchemaValueException, values: Mapping[str, Any]) -> str:
    """What is wrong between two keys: the rule that failed carries its reason as `description`."""
    key = error.path[1]
    reason = error.definition.get("description", "")
    return f"{key}: found {_shown(values[key])}, but {reason}"


def _expected(schema: Mapping[str, Any]) -> str:
    """A schema in words: "a number above 0", "a list, each a whole number of at least 1"."""
    if "anyOf" in schema:
        return ", or ".join(_expected(option) for option in schema["anyOf"])
    if "enum" in schema:
        return f"a name such as {schema['enum'][0]}"
    if "items" in schema:
        least, most = schema.get("minItems"), schema.get("maxItems")
        size = f" of {most} items" if least == most and most else f" of at most {most} items" if most else ""
        return f"a list{size}, each {_expected(schema['items'])}"
    kind = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a name",
        "null": "null",
        "object": "a mapping of options",
        "boolean": "true or false",
    }.get(str(schema.get("type", "")), "a number or null" if isinstance(schema.get("type"), list) else "a value")
    limits = {
        "exclusiveMinimum": "above",
        "minimum": "of at least",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    ranges = [f"{words} {_shown(schema[limit])}" for limit, words in limits.items() if limit in schema]
    return f"{kind} {' and '.join(ranges)}".rstrip()


def _choices(schema: Mapping[str, Any]) -> list[str]:
    """The names that a key, or each item of its list, may take; empty where any text may stand."""
    for option in [schema, *schema.get("anyOf", [])]:
        names = option.get("enum") or option.get("items", {}).get("enum")
        if names:
            return list(names)
    return []


def _nearest(name: str, choices: Mapping[str, Any] | list[str]) -> str:
    by_folded = {choice.casefold(): choice for choice in choices}
    close = difflib.get_close_matches(name.casefold(), by_folded, n=2, cutoff=0.65)
    return f", did you mean {' or '.join(f'`{by_folded[match]}`' for match in close)}?" if close else ""


def _listed(names: Collection[str]) -> str:
    """The first of many names, and how many more there are."""
    first, more = list(names)[:MOST_NAMED], len(names) - MOST_NAMED
    return ", ".join(first) + (f" and {more} more, which params.schema.json lists" if more > 0 else "")


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, int | float) or abs(value) <= sys.float_info.max


def _shown(value: Any) -> str:
    text = "null" if value is None else json.dumps(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
