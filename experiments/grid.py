"""The grids in experiments/sweeps.yaml and their combinations, all checked before the first one runs."""

import copy
import itertools
import json
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
    """Read the grid of this name: parameter -> values.

    Raises:
        UserError: no grid has this name, or it does not map parameters in params.yaml to lists of different values.
    """
    sweeps = read(SWEEPS)
    if name not in sweeps:
        raise UserError(
            f"{SWEEPS}: no sweep `{name}`, expected one of {', '.join(map(str, sweeps))}: make sweep NAME=..."
        )
    grid = sweeps[name]
    if not isinstance(grid, dict) or not grid or not all(isinstance(v, list) and v for v in grid.values()):
        raise UserError(f"{SWEEPS}: {name}: expected lines of `parameter: [value, value]`")
    parameters = read(PARAMETERS)
    for key, values in grid.items():
        if not _has(parameters, key):
            raise UserError(f"{SWEEPS}: {name}: {key}: not a parameter in {PARAMETERS}")
        if any(isinstance(value, dict) for value in values):
            raise UserError(
                f"{SWEEPS}: {name}: {key}: found a mapping, expected numbers, names, lists, true, false or null; "
                f"to vary one key of a mapping, write `{key}.KEY: [value, value]`"
            )
        if other := next((other for other in grid if other.startswith(f"{key}.")), None):
            raise UserError(f"{SWEEPS}: {name}: {key} and {other} overlap; vary the mapping or one of its keys")
        for number, value in enumerate(values):
            if value in values[:number]:
                raise UserError(f"{SWEEPS}: {name}: {assignments({key: value})[0]} is listed twice")
    return grid


def combinations(name: str, parameters: Mapping[str, Any]) -> list[Combination]:
    """Return every combination of a grid's values; the last parameter varies fastest.

    Raises:
        UserError: the grid is malformed, or the parameters are invalid with one of its combinations.
    """
    grid = read_grid(name)
    every_combination = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    check_all(parameters)
    for combination in every_combination:
        try:
            check_all(applied(combination, parameters))
        except UserError as error:
            settings = " ".join(assignments(combination))
            raise UserError(f"{SWEEPS}: {name}: {settings}: {str(error).removeprefix(f'{PARAMETERS}: ')}") from error
    return every_combination


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


def settings_of(combination: Combination) -> list[str]:
    """Return the options of `dvc exp run` that set the values of the combination."""
    return [
        part for key, value in combination.items() for part in ("-S", f"{key}={json.dumps(value, ensure_ascii=False)}")
    ]


def _has(parameters: Mapping[str, Any], key: Any) -> bool:
    value: Any = parameters
    for part in str(key).split("."):
        if not isinstance(value, dict) or part not in value:
            return False
        value = value[part]
    return True
