"""The one road from `params.yaml` into a stage.

`load(Parameters)` first checks the whole file against `params.schema.json`, so that a typo in a key of the last stage
stops the first one in its first second; then it gives the stage the keys that its own pydantic model declares, and no
others. The schema is generated from the stages' models (`make schema`) and can only refuse, never change a value: that
is why no stage depends on it, and a new hyperparameter of one stage does not rerun another.
"""

import os
import re
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from stages.lib.core.errors import UserError, reason
from stages.lib.core.sealed import unseal
from stages.lib.validation.messages import check

PARAMETERS = Path("params.yaml")
SCHEMA = Path("params.schema.json")
LINE_BREAKS_OF_YAML_1_1 = {"\x85", "\u2028", "\u2029"}  # characters like others to DVC


class StageParameters(BaseModel):
    """Base of the stages' models: immutable, exactly the declared keys, numbers finite.

    Every field has a default, which documents the key in the schema. It is not a fallback: `load` refuses a
    `params.yaml` that lacks a key.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, protected_namespaces=()
    )


P = TypeVar("P", bound=StageParameters)


def without(neutral: object) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A validator that drops the options of a mapping that have the neutral value: 0 or null.

    `params.yaml` names every option, so that `-S augmentation.shift=1` finds the key that it sets.
    """
    return lambda options: {name: value for name, value in options.items() if value != neutral}


def load(model: type[P]) -> P:
    """The parameters of one stage, after a check of the whole of `params.yaml`.

    Raises:
        UserError: the file is missing, empty or malformed, or any key of it, of this stage or another, is unknown,
            missing, of the wrong type, out of range, or does not go with another key.
    """
    values = read_checked()
    if missing := next((key for key in model.model_fields if key not in values), None):
        raise UserError(
            f"{PARAMETERS}: the key `{missing}` is missing, which the code of this stage reads: add it there and to "
            "the stage's `params:` in dvc.yaml, then run `make schema`"
        )
    try:
        return model.model_validate({key: values[key] for key in model.model_fields})
    except ValidationError as error:  # what a schema cannot say, such as a whole number beyond all floats
        raise UserError(f"{PARAMETERS}: {reason(error)}") from error


def read_checked() -> dict[str, Any]:
    """Read `params.yaml` and check all of it.

    Raises:
        UserError: as `load` does.
    """
    values = read(PARAMETERS)
    try:
        check_all(values)
    except UserError:
        let_git_see_the_change()
        raise
    return values


def let_git_see_the_change() -> None:
    """Move the modification time of `params.yaml` by a second, before a value in it is refused.

    `dvc exp run -S` restores the file, has git's index record it, writes the new value, runs the stages, and has
    libgit2 write the index again. Git compares sizes and whole seconds. So a value that was written within the same
    second looks unchanged if the file is as long as before, and comments in their column keep it so: `git status` is
    clean, and `git checkout params.yaml` does nothing. Git itself guards against that (its documentation calls it
    racy-git), libgit2 by nanoseconds alone.
    """
    status = PARAMETERS.stat()
    with suppress(PermissionError):  # somebody else's file: git will not be asked to restore it
        os.utime(PARAMETERS, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def check_all(values: Mapping[str, Any]) -> None:
    """Check the values of all keys against `params.schema.json`.

    Raises:
        UserError: one line about the first key that is wrong; or the schema is damaged.
    """
    try:
        schema = unseal(_text(SCHEMA))
    except ValueError as error:
        raise UserError(f"{SCHEMA}: damaged ({reason(error)}); `make schema` writes it anew") from error
    check(values, schema)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. A key that stands twice is an error, and `1e-05` a number, as YAML 1.2 says."""
    try:
        text = _text(path)
        if set(text) & LINE_BREAKS_OF_YAML_1_1:
            raise ValueError("a line break of another kind; press Enter for each")
        values = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
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
    """Reads plain values as YAML 1.2 does, and as DVC does; without aliases, few bytes of which can hold billions.

    PyYAML follows YAML 1.1, where `1e-05` (what `dvc exp run -S lr=1e-5` writes) is text, `010` is eight and `no` is
    false.
    """

    yaml_implicit_resolvers: ClassVar = {}  # type: ignore[misc]  # a class variable in PyYAML too

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.MarkedYAMLError(problem="an alias; write its value out", problem_mark=mark)
        return super().compose_node(parent, index)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: set[Any] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key that is no name", problem_mark=key.start_mark)
        if key.value in seen:
            raise yaml.MarkedYAMLError(problem=f"the key `{key.value}` stands twice", problem_mark=key.start_mark)
        seen.add(key.value)
    return loader.construct_mapping(node, deep=True)


def _float(_loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))


_CORE = "tag:yaml.org,2002:"
_Loader.yaml_constructors = {
    f"{_CORE}null": _Loader.construct_yaml_null,
    f"{_CORE}bool": _Loader.construct_yaml_bool,
    f"{_CORE}int": lambda _, node: int(node.value),
    f"{_CORE}float": _float,
    f"{_CORE}str": _Loader.construct_yaml_str,
    f"{_CORE}seq": _Loader.construct_yaml_seq,
    f"{_CORE}map": _mapping,
    None: _Loader.construct_undefined,  # any other tag
}
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
    _Loader.add_implicit_resolver(f"{_CORE}{kind}", re.compile(f"^({pattern})$"), first)
