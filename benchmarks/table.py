"""The table of the benchmark in Markdown, and its chart."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.picture import svg_chart
from benchmarks.timing import Timing

ROUNDS = 5


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    ours: str
    against: str
    ratio: float
    goal: str
    reached: bool


def as_text(timing: Timing) -> str:
    """Format median and spread."""
    return f"{timing.median:.2f} s ± {timing.spread:.0%}"


def ratio_row(name: str, ours: Timing, against: str, peer: Timing, goal: float) -> Row:
    """Make a row with the ratio of two medians."""
    ratio = ours.median / peer.median
    return Row(name, as_text(ours), against, ratio, f"{goal:.2f}", ratio <= goal)


def line(row: Row) -> str:
    """Format a row of the table in Markdown."""
    reached = "yes" if row.reached else "no"
    return f"| {row.name} | {row.ours} | {row.against} | {row.ratio:.2f} | {row.goal} | {reached} |"


def page(rows: list[Row]) -> str:
    """Format the table in Markdown."""
    lines = ["| measurement | ours | against | ratio | goal | reached |", "|---|--:|---|--:|--:|---|"]
    lines += map(line, rows)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    machine = f"{os.cpu_count()} processors, {platform.system()}, {versions}"
    return (
        f"{machine}; medians of at least {ROUNDS} alternating rounds, ± half their range.\n\n" + "\n".join(lines) + "\n"
    )


def draw(rows: list[Row], path: Path) -> None:
    """Draw the ratios as bars, and their goals as marks."""
    rows = [row for row in rows if row.goal.replace(".", "").isdigit()]
    positions = range(len(rows))
    with svg_chart(path, (9, 0.5 * len(rows) + 1)) as axes:
        axes.barh(positions, [row.ratio for row in rows], color=["#2a7" if row.reached else "#d62" for row in rows])
        axes.plot([float(row.goal) for row in rows], positions, "k|", markersize=18, label="goal")
        axes.set_yticks(positions, [f"{row.name}\nagainst {row.against.split(':')[0]}" for row in rows], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("ratio (lower is faster)")
