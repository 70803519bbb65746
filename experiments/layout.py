"""Parameters and tables as text for a terminal."""

import json
from collections.abc import Mapping, Sequence
from typing import Any


def as_text(value: Any) -> str:
    """A value without blanks: `[96,256]`, `null`, `relu`."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Values by their dotted keys as `lr=0.01`, `augmentation.shift=1`."""
    return [f"{key}={as_text(value)}" for key, value in values.items()]


def score_text(value: float) -> str:
    """A score to four decimals; the loss of a run that diverged, whose decimals say nothing, to three digits."""
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.2e}"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return [line.rstrip() for line in lines]
