"""The one road from `params.yaml` into a stage.

`load(Parameters)` first checks the whole file against `params.schema.json`, so that a typo in a key of the last stage
stops the first one in its first second; then it gives the stage the keys that its own pydantic model declares, and no
others. The schema is generated from the stages' models (`make schema`) and can only refuse, never change a value: that
is why no stage depends on it, and a new hyperparameter of one stage does not rerun another.
"""

import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict

from stages.lib.check import check
from stages.lib.stage import UserError, reason

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
    try:
        schema = json.loads(_text(SCHEMA))
        schema["properties"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{SCHEMA}: damaged ({reason(error)}); `git checkout {SCHEMA}` restores it") from error
    check(values, schema)
    return model.model_validate({key: values[key] for key in model.model_fields})


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. A key that stands twice is an error, and `1e-05` a number, as YAML 1.2 says."""
    try:
        values = yaml.load(_text(path), Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or reason(error)
        raise UserError(f"{path}: {where}not valid YAML: {problem}") from error
    if not isinstance(values, dict):
        found = "nothing" if values is None else f"a {type(values).__name__}"
        raise UserError(f"{path}: found {found}, expected lines of `key: value`; `git checkout {path}` restores it")
    return values


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
    """Reads plain values as YAML 1.2 does, and as DVC does.

    PyYAML follows YAML 1.1, where `1e-05` (what `dvc exp run -S lr=1e-5` writes) is text, `010` is eight and `no` is
    false.
    """

    yaml_implicit_resolvers: ClassVar = {}  # type: ignore[misc]  # a class variable in PyYAML too


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key that is no name", problem_mark=key.start_mark)
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key `{key.value}` stands twice", problem_mark=key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
for kind, pattern, first in (  # https://yaml.org/spec/1.2.2/#103-core-schema, without octal and hexadecimal numbers
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+0123456789."),
    ),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", re.compile(f"^({pattern})$"), first)
