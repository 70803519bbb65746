"""params.yaml as the stages read it.

Stage `check` validates the whole file before the other stages run. `load(Parameters)` then gives a stage the keys that
its own pydantic model declares and ignores the others, so a new parameter of one stage does not rerun another.
The same model refuses bad values of a stage that is started by hand.
"""

import operator
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent

from stages.lib.core.errors import UserError, reason

PARAMETERS = Path("params.yaml")
MAX_DEPTH = 50  # levels of nesting in a YAML file; the C parser crashes at some ten thousand

P = TypeVar("P", bound="StageParameters")


class StageParameters(BaseModel):
    """Base of the stages' models: immutable, exactly the declared keys, finite numbers.

    Every field has a default, which documents the key in the schema. It is not a fallback: `load` refuses a
    `params.yaml` that lacks a key.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )

    @field_validator("*", mode="before")
    @classmethod
    def _fits_the_schema(cls, value: Any, info: ValidationInfo) -> Any:
        """Apply `json_schema_extra`, which pydantic only copies into the schema."""
        schema = cls.model_fields[info.field_name or ""].json_schema_extra
        if isinstance(schema, dict) and not fits(value, schema):
            raise PydanticCustomError("schema", "does not fit params.schema.json; `python -m stages.check` says why")
        return value


def without(neutral: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a validator that drops the options of a mapping that have the neutral value: 0 or null.

    `params.yaml` names every option, so that `-S augmentation.shift=1` finds the key that it sets.
    """
    return lambda options: {name: value for name, value in options.items() if value != neutral}


def load(model: type[P]) -> P:
    """Return the parameters of one stage.

    Raises:
        UserError: `params.yaml` is missing or malformed, or one of the stage's own keys is missing or has a bad value.
    """
    values = read(PARAMETERS)
    if missing := next((key for key in model.model_fields if key not in values), None):
        raise UserError(
            f"{PARAMETERS}: the key `{missing}` is missing, which the code of this stage reads: add it there and to "
            "the stage's `params:` in dvc.yaml, then run `make schema`"
        )
    try:
        return model.model_validate({key: values[key] for key in model.model_fields})
    except ValidationError as error:
        raise UserError(f"{PARAMETERS}: {reason(error)}") from error


def device_name(arithmetic: object) -> str:
    """Return the device that `DEVICE` in the environment names: "cpu" if it is not set.

    Raises:
        UserError: it is not the CPU, and the arithmetic is portable.
    """
    name = os.environ.get("DEVICE", "cpu")
    if name != "cpu" and arithmetic == "portable":
        raise UserError(
            f"DEVICE: found `{name}`, but portable arithmetic computes on the CPU; unset DEVICE, or set arithmetic to "
            f"native in {PARAMETERS}"
        )
    return name


def read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file, with the values that DVC reads: it uses the same parser.

    That is YAML 1.2: `1e-05` (which `dvc exp run -S lr=1e-5` writes) is a number, `010` is ten and `no` is a name.

    Raises:
        UserError: the file is missing or malformed, has a key twice, an alias, a date or another tag, or is no mapping.
    """
    try:
        text = text_of(path)
        _refuse_aliases(text)
        yaml = YAML(typ="safe")
        yaml.Constructor = _Constructor
        values = yaml.load(text)
    except (YAMLError, ValueError, TypeError, LookupError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or reason(error)
        raise UserError(f"{path}: {where}not valid YAML: {problem}") from error
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(f"{path}: found {kind}, expected lines of `key: value`; `git checkout {path}` restores it")
    return values


def text_of(path: Path) -> str:
    """Return the text of a file of the project that is in git.

    Raises:
        UserError: it is missing, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"{path}: not found; run from the project's folder, `git checkout {path}` restores it"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text; `git checkout {path}` restores it") from error


def _refuse_aliases(text: str) -> None:
    """Refuse aliases, few bytes of which can stand for billions of values, and nesting that crashes the C parser."""
    depth = 0
    for event in YAML(typ="safe").parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if isinstance(event, AliasEvent):
            raise MarkedYAMLError(problem="an alias; write its value out", problem_mark=event.start_mark)
        if depth > MAX_DEPTH:
            raise MarkedYAMLError(problem=f"more than {MAX_DEPTH} levels", problem_mark=event.start_mark)


class _Constructor(SafeConstructor):
    """Constructs mappings with names as keys, lists, names, numbers, true, false and null."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        for key, _ in node.value:
            if key.tag != f"{_CORE}str":
                raise MarkedYAMLError(problem="a key that is not a name", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def _refuse_tag(_constructor: _Constructor, node: Any) -> None:
    kind = node.tag.removeprefix(_CORE)
    problem = f"a {kind}, expected a number, a name, true, false, null, a list or a mapping; quotes make it a name"
    raise MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


_CORE = "tag:yaml.org,2002:"
_KINDS = [f"{_CORE}{kind}" for kind in ("map", "seq", "str", "int", "float", "bool", "null")]
_Constructor.yaml_constructors = {kind: SafeConstructor.yaml_constructors[kind] for kind in _KINDS}
_Constructor.yaml_constructors[None] = _refuse_tag


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value fits a JSON Schema of the keywords that the stages' models use in `json_schema_extra`.

    fastjsonschema and the whole schema, with which stage `check` validates all keys, would cost every stage 50 ms.
    """
    types = schema.get("type", [])
    if (
        ("anyOf" in schema and not any(fits(value, option) for option in schema["anyOf"]))
        or ("enum" in schema and value not in schema["enum"])
        or (types and not any(_has_type(value, name) for name in ([types] if isinstance(types, str) else types)))
    ):
        return False
    if isinstance(value, list):
        shortest, longest = schema.get("minItems", 0), schema.get("maxItems", len(value))
        return shortest <= len(value) <= longest and all(fits(item, schema.get("items", {})) for item in value)
    if isinstance(value, dict):
        options = schema.get("properties", {})
        known = schema.get("additionalProperties", True) or value.keys() <= options.keys()
        complete = value.keys() >= {*schema.get("required", [])}
        return known and complete and all(fits(option, options.get(name, {})) for name, option in value.items())
    if isinstance(value, int | float):
        in_range = all(holds(value, schema[limit]) for limit, holds in _LIMITS.items() if limit in schema)
        return in_range and abs(value) <= sys.float_info.max
    return True


def _has_type(value: Any, name: str) -> bool:
    if isinstance(value, float) and name == "integer":
        return value.is_integer()
    return isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


_LIMITS: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}
_TYPES = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": int | float,
    "string": str,
    "array": list,
    "object": dict,
}
