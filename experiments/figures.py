"""The figures in reports/*.json as one flat mapping, as DVC names them."""

from collections.abc import Mapping
from typing import Any


def flat(figures: Mapping[str, Any]) -> dict[str, float]:
    """{"x": {"mae": 1}, "rows": 2} -> {"x.mae": 1, "rows": 2}."""
    found: dict[str, float] = {}
    for name, value in figures.items():
        inner = flat(value) if isinstance(value, dict) else None
        found |= {name: value} if inner is None else {f"{name}.{key}": number for key, number in inner.items()}
    return found
