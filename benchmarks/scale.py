"""Measure seconds, peak memory and disk space of every stage with a growing number of images.

    make scale              (python -m benchmarks.scale)      70 thousand to 7 million images, 5 minutes, 20 GB
    python -m benchmarks.scale 70000 700000                   some of the sizes

Out: benchmarks/scale.md and scale.svg.
The images are synthetic, in a NumPy array: ten classes with a smooth random pattern each, and every image is half the
pattern of its class, half noise. 2 % of the images become val, 2 % test. Each stage runs in its own process; train runs
one epoch with batches of 1,024, or 128 for the large images. Memory is the peak resident memory of the process, minus
that of a process that only imports the stage. Then normalize is measured on a Dask cluster (benchmarks/cluster.py).
"""

from stages.lib.core.process import run

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from benchmarks import cluster
from benchmarks.images import write_arrays
from benchmarks.picture import svg_chart
from stages.lib.core.files import STATE, write_text

HERE = Path(__file__).parent
STAGES = ("download", "normalize", "cache", "train", "evaluate")
SIZES: list[tuple[int, tuple[int, ...]]] = [
    (70_000, (28, 28)),
    (700_000, (28, 28)),
    (7_000_000, (28, 28)),
    (20_000, (224, 224, 3)),
]
PARAMETERS = {
    "dataset": "arrays",
    "source": "generated",
    "val_fraction": 0.02,
    "test_fraction": 0.02,
    "epochs": 1,
    "activation": "silu",
    "mistakes_shown": 5,
}


@dataclass(frozen=True)
class Measurement:
    """One stage at one size."""

    images: int
    shape: tuple[int, ...]
    stage: str
    seconds: float
    memory: int  # bytes, beyond the imports
    disk: int  # bytes written


def main() -> None:
    chosen = [(number, shape) for number, shape in SIZES if len(sys.argv) == 1 or str(number) in sys.argv[1:]]
    measurements: list[Measurement] = []
    for number, shape in tqdm(chosen, desc="scale", unit=" sizes"):
        STATE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=STATE) as folder:  # the system's temporary folder may be too small
            project = Path(folder) / "project"
            subprocess.run(["git", "clone", "--quiet", HERE.parent, project], check=True)
            path = project / "params.yaml"
            values: dict[str, Any] = yaml.safe_load(path.read_text()) | PARAMETERS
            values |= {"image_size": shape[0], "batch_size": 1024 if shape[0] < 100 else 128}
            path.write_text(yaml.safe_dump(values, sort_keys=False))
            write_arrays(project / "generated", number, shape)
            for stage in STAGES:
                _, memory_of_imports = time_and_memory(project, "-c", f"import os, stages.{stage}; os._exit(0)")
                disk_before = disk_usage(project)
                seconds, memory = time_and_memory(project, "-m", f"stages.{stage}")
                disk = disk_usage(project) - disk_before
                measurements.append(Measurement(number, shape, stage, seconds, memory - memory_of_imports, disk))
                tqdm.write(line(measurements[-1]))
    with tempfile.TemporaryDirectory(dir=STATE) as folder:
        project = Path(folder) / "project"
        subprocess.run(["git", "clone", "--quiet", HERE.parent, project], check=True)
        clusters = cluster.measure(project)
    write_text(HERE / "scale.md", f"{page(measurements)}\nOn a Dask cluster on the same machine:\n\n{clusters}\n")
    draw(measurements)


def time_and_memory(project: Path, *program: str) -> tuple[float, int]:
    """Run a Python process; return its seconds and peak resident memory in bytes, including its children."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *program], cwd=project, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(program)}: exit code {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def disk_usage(project: Path) -> int:
    """Return the bytes on disk below data/, models/ and reports/."""
    folders = [project / name for name in ("data", "models", "reports")]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def line(measurement: Measurement) -> str:
    """Format a row of the table in Markdown."""
    m = measurement
    shape = " x ".join(map(str, m.shape))
    return (
        f"| {m.images:,} | {shape} | {m.stage} | {m.seconds:.1f} | {m.images / m.seconds:,.0f} | "
        f"{m.memory / 1e6:,.0f} | {m.disk / 1e6:,.0f} |"
    )


def of_stage(measurements: list[Measurement], stage: str) -> list[Measurement]:
    """Return the measurements of a stage with images of 28 x 28."""
    return [each for each in measurements if each.stage == stage and each.shape == (28, 28)]


def exponent(measurements: list[Measurement], stage: str) -> float:
    """Return the power of the number of images by which the seconds grow between the two largest sizes."""
    smaller, larger = of_stage(measurements, stage)[-2:]
    return float(np.log(larger.seconds / smaller.seconds) / np.log(larger.images / smaller.images))


def page(measurements: list[Measurement]) -> str:
    """Format the table in Markdown."""
    rows = ["| images | shape | stage | seconds | images/s | memory, MB | disk, MB |", "|--:|---|---|--:|--:|--:|--:|"]
    rows += map(line, measurements)
    text = f"Memory beyond the imports is at most {max(each.memory for each in measurements) / 1e6:,.0f} MB."
    sizes = sorted({each.images for each in measurements if each.shape == (28, 28)})
    if len(sizes) > 1:
        exponents = ", ".join(f"{stage} {exponent(measurements, stage):.2f}" for stage in STAGES)
        text += f" From {sizes[-2]:,} to {sizes[-1]:,} images, seconds grow with a power of the number: {exponents}."
    return text + "\n\n" + "\n".join(rows) + "\n"


def draw(measurements: list[Measurement]) -> None:
    """Draw the seconds of each stage over the number of images, both logarithmic."""
    with svg_chart(HERE / "scale.svg", (7, 4.5)) as axes:
        for stage in STAGES:
            sizes = of_stage(measurements, stage)
            axes.loglog([each.images for each in sizes], [each.seconds for each in sizes], "o-", label=stage)
        axes.set_xlabel("images of 28 x 28")
        axes.set_ylabel("seconds")
        axes.grid(True, which="both", alpha=0.3)


if __name__ == "__main__":
    run(main)
