"""A clone of this project with the whole of MNIST, and what the parts of the benchmark do with it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from benchmarks.timing import seconds_of
from experiments.grid import applied

HERE = Path(__file__).parent
ARCHIVES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
EPOCHS = 10  # of the tutorial


def prepare(project: Path) -> Path:
    """Clone this project and run it on the whole of MNIST; put the files for torchvision next to it."""
    subprocess.run(["git", "clone", "--quiet", HERE.parent, project], check=True)
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "config", name, "bench"], cwd=project, check=True)
    set_parameters(project, {"dataset": "mnist"})
    seconds_of("dvc", "repro", folder=project)
    seconds_of("git", "commit", "--quiet", "--all", "--message", "MNIST", folder=project)
    raw = project.parent / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in ARCHIVES:
        shutil.copyfile(project / "data/raw/dataset/files" / name, raw / name)
        seconds_of("gunzip", "--keep", name, folder=raw)
    return project


def set_parameters(project: Path, parameters: dict[str, Any]) -> None:
    """Change values in params.yaml of the clone, by dotted key."""
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(applied(parameters, yaml.safe_load(path.read_text())), sort_keys=False))


def restore(project: Path) -> None:
    """Restore the clone to its commit."""
    seconds_of("git", "checkout", "--quiet", ".", folder=project)
    seconds_of("dvc", "checkout", "--quiet", "--force", folder=project)


def tutorial(project: Path) -> float:
    """Return the seconds of the tutorial's loop, extrapolated from one epoch."""
    command = [sys.executable, "-m", "benchmarks.tutorial", str(project.parent), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return EPOCHS * float(done.stdout.split()[0])
