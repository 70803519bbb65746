"""What each preset of experiments/presets.yaml reaches, with several seeds, and how long it takes.

Writes benchmarks/presets.json, from which `make docs` makes the tables of presets: for each its accuracies on test and
the seconds of stage train from a cold start. The presets were chosen on val before.
"""

import json
import sys
import time
from contextlib import chdir
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks.project import EPOCHS, restore, set_parameters, tutorial
from benchmarks.table import ROUNDS, Row, as_text, ratio_row
from benchmarks.timing import seconds_of, time_alternately
from experiments.presets import PRESETS, read_preset
from stages.lib.core.files import write_text
from stages.lib.model import tensors

RESULTS = Path("benchmarks/presets.json")
SEEDS = 5
GOALS = {"accurate": 0.99, "cnn": 0.995, "cnn-5k": 0.98}


def presets(project: Path) -> list[Row]:
    """Measure the presets, the time to 98 % on val, and that of the tutorial's loop."""
    seconds = time_alternately(
        {
            "tutorial": lambda: tutorial(project),
            "recommended": lambda: train(project, "recommended", 0),
            "accurate": lambda: train(project, "accurate", 0),
        },
        ROUNDS,
    )
    train(project, "recommended", 0)
    first, loop = seconds["recommended"], seconds["tutorial"]
    name = f"a cold process to {metric(project, 'train.json', 'val_accuracy'):.2%} on val (preset recommended)"
    peer_seconds, peer_score, peer_epochs = scikit_learn(project)
    against = f"tutorial's loop, {EPOCHS} epochs: {as_text(loop)}"
    rows = [
        ratio_row(name, first, against, loop, 1 / 15),
        Row(
            "the same",
            as_text(first),
            f"scikit-learn to {peer_score:.2%}, {peer_epochs} epochs: {peer_seconds:.1f} s",
            first.median / peer_seconds,
            "1.00",
            first.median < peer_seconds,
        ),
        ratio_row("preset accurate, training from a cold process", seconds["accurate"], against, loop, 1 / 5),
    ]
    results = {name: measured(project, name) for name in tqdm(yaml.safe_load(PRESETS.read_text()), leave=False)}
    write_text(RESULTS, json.dumps(results, indent=2) + "\n")
    restore(project)
    for name, goal in GOALS.items():
        scores = results[name]["accuracies"]
        text = f"{fmean(scores):.2%} ± {stdev(scores):.2%}"
        row = f"preset {name} on test, {len(scores)} seeds, chosen on val"
        rows.append(Row(row, text, "goal", fmean(scores) / goal, f"{goal:.1%}", fmean(scores) >= goal))
    return rows


def measured(project: Path, name: str) -> dict[str, Any]:
    """Train and evaluate a preset with each seed."""
    restore(project)
    set_parameters(project, read_preset(name))
    seconds_of("dvc", "repro", "cache", folder=project)  # its data
    seconds, accuracies = [], []
    for seed in range(SEEDS):
        set_parameters(project, {"seed": seed})
        seconds.append(seconds_of(sys.executable, "-m", "stages.train", folder=project))
        seconds_of(sys.executable, "-m", "stages.evaluate", folder=project)
        accuracies.append(metric(project, "metrics.json", "accuracy"))
    return {"accuracies": accuracies, "seconds": round(median(seconds), 1)}


def train(project: Path, preset: str, seed: int) -> float:
    """Train a preset for the data that are there, and return the seconds."""
    restore(project)
    set_parameters(project, read_preset(preset) | {"seed": seed})
    return seconds_of(sys.executable, "-m", "stages.train", folder=project)


def metric(project: Path, file: str, name: str) -> float:
    """Read a metric."""
    return float(json.loads((project / "reports" / file).read_text())[name])


def scikit_learn(project: Path) -> tuple[float, float, int]:
    """Train an MLPClassifier of the same layers to 98.0 % on val, and return its seconds, score and epochs."""
    from sklearn.neural_network import MLPClassifier

    with chdir(project):
        train, val = (tensors.read(Path("data/tensors") / name, memory=0) for name in ("train", "val"))
        rows, val_rows = (
            tensors.Standardize(split.description)(split.rows(0, len(split))).flatten(1).numpy()
            for split in (train, val)
        )
    numbers = train.targets.numpy()
    peer = MLPClassifier([96, 256], batch_size=256, random_state=0)
    score, epoch, seconds = 0.0, 0, 0.0
    while score < 0.98 and epoch < 30:
        started = time.perf_counter()
        peer.partial_fit(rows, numbers, classes=range(10))
        seconds += time.perf_counter() - started
        epoch += 1
        score = float(peer.score(val_rows, val.targets.numpy()))
    return seconds, score, epoch
