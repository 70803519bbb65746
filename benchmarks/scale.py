"""What every stage takes as the images become more: seconds, peak memory, bytes on disk.

    make scale              (python -m benchmarks.scale)      70 thousand to 7 million images, 5 minutes, 20 GB
    python -m benchmarks.scale 70000 700000                   some of them

The images are made here, by `generate`: ten classes, each a smooth random pattern, of which an image takes half, and of
noise the other half. They lie in an array of NumPy's; a fiftieth each becomes val and test. Each stage runs as its own
process, an epoch of training with batches of 1,024, of the large images 128. Memory is the peak of resident memory of
the process, less that of a process that imports the stage and does nothing. Out: benchmarks/scale.md and scale.svg.
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

from stages.lib.core.files import STATE, replacing, write_text

HERE = Path(__file__).parent
STAGES = ("download", "normalize", "cache", "train", "evaluate")
SIZES: list[tuple[int, tuple[int, ...]]] = [
    (70_000, (28, 28)),
    (700_000, (28, 28)),
    (7_000_000, (28, 28)),
    (20_000, (224, 224, 3)),
]
CHUNK = 1 << 24  # bytes of images made at a time
PARAMETERS = {
    **{"dataset": "arrays", "source": "made", "val_fraction": 0.02, "test_fraction": 0.02},
    **{"epochs": 1, "activation": "silu", "mistakes_shown": 5},
}


@dataclass(frozen=True)
class Measured:
    """One stage at one size."""

    images: int
    shape: tuple[int, ...]
    stage: str
    seconds: float
    memory: int  # bytes, beyond the imports
    disk: int  # bytes that it wrote


def main() -> None:
    chosen = [(number, shape) for number, shape in SIZES if len(sys.argv) == 1 or str(number) in sys.argv[1:]]
    found: list[Measured] = []
    for number, shape in tqdm(chosen, desc="scale", unit=" sizes"):
        STATE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=STATE) as folder:  # on this disk: a system's own may be small
            project = Path(folder) / "project"
            subprocess.run(["git", "clone", "--quiet", HERE.parent, project], check=True)
            path = project / "params.yaml"
            values: dict[str, Any] = yaml.safe_load(path.read_text()) | PARAMETERS
            values |= {"image_size": shape[0], "batch_size": 1024 if shape[0] < 100 else 128}
            path.write_text(yaml.safe_dump(values, sort_keys=False))
            generate(project / "made", number, shape)
            for stage in STAGES:
                least = peak(project, "-c", f"import os, stages.{stage}; os._exit(0)")[1]
                before = written(project)
                seconds, memory = peak(project, "-m", f"stages.{stage}")
                found.append(Measured(number, shape, stage, seconds, memory - least, written(project) - before))
                tqdm.write(line(found[-1]))
    write_text(HERE / "scale.md", page(found))
    draw(found)


def generate(folder: Path, number: int, shape: tuple[int, ...]) -> None:
    """images.npy and targets.npy: (number, *shape) uint8, and (number,) uint8 of ten classes."""
    random = np.random.Generator(np.random.PCG64(0))
    small = random.integers(0, 128, (10, 8, 8), np.uint8)
    patterns = np.stack([np.kron(pattern, np.ones((-(-shape[0] // 8),) * 2, np.uint8)) for pattern in small])
    patterns = patterns[:, : shape[0], : shape[1]].reshape(10, *shape[:2], *[1] * (len(shape) - 2))
    targets = random.integers(0, 10, number, np.uint8)
    folder.mkdir()
    np.save(folder / "targets.npy", targets)
    with (folder / "images.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (number, *shape)})
        rows = max(1, CHUNK // int(np.prod(shape)))
        for first in range(0, number, rows):
            some = targets[first : first + rows]
            noise = np.frombuffer(random.bytes(len(some) * int(np.prod(shape))), np.uint8).reshape(-1, *shape)
            file.write((patterns[some] + (noise >> 1)).tobytes())


def peak(project: Path, *program: str) -> tuple[float, int]:
    """Seconds, and the peak of resident memory in bytes, of a Python process and what it starts."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *program], cwd=project, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(program)}: exit code {process.returncode}")
    return time.perf_counter() - started, usage.ru_maxrss * 1024


def written(project: Path) -> int:
    """Bytes on disk below data/, models/ and reports/."""
    folders = [project / name for name in ("data", "models", "reports")]
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())


def line(found: Measured) -> str:
    """A row of the table, in Markdown."""
    shape = " x ".join(map(str, found.shape))
    return (
        f"| {found.images:,} | {shape} | {found.stage} | {found.seconds:.1f} | {found.images / found.seconds:,.0f} | "
        f"{found.memory / 1e6:,.0f} | {found.disk / 1e6:,.0f} |"
    )


def slope(found: list[Measured], stage: str) -> float:
    """By which power of the number of images the seconds grow, over the last two sizes of 28 x 28."""
    own = [each for each in found if each.stage == stage and each.shape == (28, 28)][-2:]
    return float(np.log(own[1].seconds / own[0].seconds) / np.log(own[1].images / own[0].images))


def page(found: list[Measured]) -> str:
    """The table, in Markdown."""
    rows = ["| images | shape | stage | seconds | images/s | memory, MB | disk, MB |", "|--:|---|---|--:|--:|--:|--:|"]
    rows += map(line, found)
    sizes = {each.images for each in found if each.shape == (28, 28)}
    told = ", ".join(f"{stage} {slope(found, stage):.2f}" for stage in STAGES) if len(sizes) > 1 else ""
    largest = max(each.memory for each in found) / 1e6
    text = f"Memory beyond the imports is at most {largest:,.0f} MB."
    if told:
        text += f" From {sorted(sizes)[-2]:,} to {max(sizes):,} images seconds grow by the power of: {told}."
    return text + "\n\n" + "\n".join(rows) + "\n"


def draw(found: list[Measured]) -> None:
    """Seconds of each stage over the number of images, both logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "scale"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for stage in STAGES:
        own = [each for each in found if each.stage == stage and each.shape == (28, 28)]
        axes.loglog([each.images for each in own], [each.seconds for each in own], "o-", label=stage)
    axes.set_xlabel("images of 28 x 28")
    axes.set_ylabel("seconds")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    with replacing(HERE / "scale.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    run(main)
