"""The one road from `params.yaml` into a stage.

`load(Parameters)` first checks the whole file against `params.schema.json`, so that a typo in a key of the last stage
stops the first one in its first second; then it gives the stage the keys that its own pydantic model declares, and no
others. The schema is generated from the stages' models (`make schema`) and can only refuse, never change a value: that
is why no stage depends on it, and a new hyperparameter of one stage does not rerun another.
"""

import difflib
import json
import math
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import fastjsonschema
import yaml
from pydantic import BaseModel, ConfigDict

from stages.lib.stage import UserError

PARAMETERS = Path("params.yaml")
SCHEMA = Path("params.schema.json")


class StageParameters(BaseModel):
    """Base of the stages' models: immutable, exactly the declared keys, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


P = TypeVar("P", bound=StageParameters)


def load(model: type[P]) -> P:
    """The parameters of one stage, after a check of the whole of `params.yaml`.

    Raises:
        UserError: the file is missing, empty or malformed, or any key of it, of this stage or another, is unknown,
            missing, of the wrong type, out of range, or does not go with another key.
    """
    values = read(PARAMETERS)
    check(values, json.loads(_text(SCHEMA)))
    return model.model_validate({key: values[key] for key in model.model_fields})


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. A key that stands twice is an error, and `1e-05` a number, as YAML 1.2 says."""
    try:
        values = yaml.load(_text(path), Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or error
        raise UserError(f"{path}: {where}not valid YAML: {problem}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(f"{path}: found {found}, expected lines of `key: value`; `git checkout {path}` restores it")
    return values


def check(values: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """Refuse values that do not fit the schema.

    Besides the keywords of JSON Schema (draft 7) the schema may hold `same_length`: pairs of keys whose lists, where
    both are lists, have the same number of items.

    Raises:
        UserError: one line about the first key that does not fit.
    """
    properties = schema["properties"]
    for key in values:
        if key not in properties:
            raise UserError(f"{PARAMETERS}: unknown key `{key}`{_nearest(str(key), properties)}")
    for key in properties:
        if key not in values:
            raise UserError(f"{PARAMETERS}: the key `{key}` is missing: {properties[key]['description']}")
    for key, value in values.items():
        if not _finite(value):
            raise UserError(f"{PARAMETERS}: {key}: found {_shown(value)}, expected finite numbers")
        try:
            fastjsonschema.validate(properties[key], value)
        except fastjsonschema.JsonSchemaValueException as error:
            raise UserError(f"{PARAMETERS}: {key}: {_mismatch(value, properties[key])}") from error
    try:
        fastjsonschema.validate({"allOf": schema.get("allOf", [])}, dict(values))
    except fastjsonschema.JsonSchemaValueException as error:
        raise UserError(f"{PARAMETERS}: {_conflict(error, values)}") from error
    for first, second in schema.get("same_length", []):
        one, other = values[first], values[second]
        if isinstance(one, list) and isinstance(other, list) and len(one) != len(other):
            raise UserError(
                f"{PARAMETERS}: {first} has {len(one)} items and {second} has {len(other)}: "
                f"give one item of {first} for each of {second}, or a single one for all"
            )


def _mismatch(value: Any, schema: Mapping[str, Any]) -> str:
    """What is wrong with the value of one key by itself."""
    choices = _choices(schema)
    for name in value if isinstance(value, list) else [value]:
        if choices and isinstance(name, str) and name not in choices:
            return f"unknown name `{name}`{_nearest(name, choices) or '; expected one of ' + ', '.join(choices)}"
    return f"found {_shown(value)}, expected {_expected(schema)} ({schema['description']})"


def _conflict(error: fastjsonschema.JsonSchemaValueException, values: Mapping[str, Any]) -> str:
    """What is wrong between two keys: the rule that failed carries its reason as `description`."""
    key = error.path[1]
    reason = error.definition.get("description", "")
    if error.rule == "additionalProperties":
        options = error.definition["properties"]
        unknown = next(option for option in values[key] if option not in options)
        return f"{key}: unknown option `{unknown}`{_nearest(unknown, options)}; {reason}"
    return f"{key}: found {_shown(values[key])}, but {reason}"


def _expected(schema: Mapping[str, Any]) -> str:
    """A schema in words: "a number above 0", "a list of whole numbers of at least 1, or null"."""
    if "anyOf" in schema:
        return ", or ".join(_expected(option) for option in schema["anyOf"])
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "items" in schema:
        return f"a list, each item {_expected(schema['items'])}"
    kind = {
        "integer": "a whole number",
        "number": "a number",
        "string": "a name",
        "null": "null",
        "object": "a mapping of options",
    }.get(schema.get("type", ""), "a value")
    limits = {
        "exclusiveMinimum": "above",
        "minimum": "at least",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    ranges = [f"{words} {schema[limit]:g}" for limit, words in limits.items() if limit in schema]
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


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; run from the project's folder, `git checkout {path}` restores it"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; `git checkout {path}` restores it") from error


class _Loader(yaml.SafeLoader):
    pass


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key `{key.value}` stands twice", problem_mark=key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
# PyYAML follows YAML 1.1, where an exponent needs a point: `dvc exp run -S lr=1e-5` writes `1e-05`, and DVC reads that
# as a number. Read it the same way here.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$"), list("-+0123456789")
)
