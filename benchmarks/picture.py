"""Charts as SVG files, with the same bytes for the same data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stages.lib.core.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@contextmanager
def svg_chart(path: Path, size: tuple[float, float]) -> Iterator["Axes"]:
    """Yield the axes of a chart of `size` inches; write it with a legend to `path` at the end of the block."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = path.stem
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size)
    yield axes
    axes.legend()
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})
