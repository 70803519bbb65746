"""The grids in experiments/sweeps.yaml, and their combinations, all checked before the first one runs."""

import copy
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.layout import assignments
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS, read
from stages.lib.validation.rules import check_all

SWEEPS = Path("experiments/sweeps.yaml")

Combination = dict[str, Any]  # parameter -> value; `mapping.key` for a key of a nested mapping


def read_grid(name: str) -> dict[str, list[Any]]:
    """Return the grid of this name: parameter -> values.

    Raises:
        UserError: there is none, or it is no mapping of parameters in params.yaml to lists of different values.
    """
    sweeps = read(SWEEPS)
    if name not in sweeps:
        raise UserError(
            f"{SWEEPS}: found no sweep `{name}`, expected one of {', '.join(map(str, sweeps))}: make sweep NAME=..."
        )
    grid = sweeps[name]
    if not isinstance(grid, dict) or not grid or not all(isinstance(v, list) and v for v in grid.values()):
        raise UserError(f"{SWEEPS}: {name}: expected lines of `parameter: [value, value]`")
    parameters = read(PARAMETERS)
    for key, values in grid.items():
        if not _has(parameters, key):
            raise UserError(f"{SWEEPS}: {name}: {key}: no parameter of {PARAMETERS}")
        if any(isinstance(value, dict) for value in values):
            raise UserError(
                f"{SWEEPS}: {name}: {key}: found a mapping, expected numbers, names, lists, true, false or null; "
                f"a line `{key}.KEY: [value, value]` varies one key of a mapping"
            )
        if other := next((other for other in grid if other.startswith(f"{key}.")), None):
            raise UserError(f"{SWEEPS}: {name}: {key} and {other}: vary the mapping or one key of it")
        for number, value in enumerate(values):
            if value in values[:number]:
                raise UserError(f"{SWEEPS}: {name}: {assignments({key: value})[0]} stands twice")
    return grid


def combinations(name: str, parameters: Mapping[str, Any]) -> list[Combination]:
    """Return every combination of the values of a grid; the last parameter varies fastest.

    Raises:
        UserError: the grid is malformed, or one of its combinations, set in `parameters`, does not fit the schema.
    """
    grid = read_grid(name)
    every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    check_all(parameters)
    for combination in every:
        try:
            check_all(applied(combination, parameters))
        except UserError as error:
            which = " ".join(assignments(combination))
            raise UserError(f"{SWEEPS}: {name}: {which}: {str(error).removeprefix(f'{PARAMETERS}: ')}") from error
    return every


def applied(combination: Combination, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the parameters with the values of the combination."""
    values = copy.deepcopy(dict(parameters))
    for key, value in combination.items():
        *path, last = key.split(".")
        mapping = values
        for part in path:
            mapping = mapping[part]
        mapping[last] = value
    return values


def _has(parameters: Mapping[str, Any], key: Any) -> bool:
    found: Any = parameters
    for part in str(key).split("."):
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True
