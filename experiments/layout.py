"""Parameters and tables formatted for a terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def as_text(value: Any) -> str:
    """Format a value without spaces: `[96,256]`, `null`, `relu`."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Format values by dotted key: `lr=0.01`, `augmentation.shift=1`."""
    return [f"{key}={as_text(value)}" for key, value in values.items()]


def score_text(value: float) -> str:
    """Format a score with four decimals, and the loss of a run that diverged with three digits."""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.2e}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Join the cells of each row into a line, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]
