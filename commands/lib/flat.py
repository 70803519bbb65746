"""Flat mappings from nested ones, with the names that DVC gives to metrics and parameters."""

from collections.abc import Mapping
from typing import Any


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a nested mapping: {"x": {"mae": 1}, "rows": 2} -> {"x.mae": 1, "rows": 2}."""
    flattened: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flattened |= {f"{name}.{inner}": leaf for inner, leaf in flat(value).items()}
        else:
            flattened[name] = value
    return flattened
