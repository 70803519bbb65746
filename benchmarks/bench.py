"""Measure the time from an edited parameter to its metrics, compared with other tools and lower bounds.

    make bench          (python -m benchmarks.bench)          needs MNIST in DATASET_MIRROR or from the network

Out: benchmarks/results.md and benchmarks/results.svg. What is compared runs alternately. The table has medians of
ROUNDS or more. Seconds depend on the machine, ratios less so.
"""

from stages.lib.core.process import run

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import chdir
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from benchmarks import steps
from benchmarks.picture import svg_chart
from benchmarks.timing import Timing, seconds_of, time_alternately, wait_until_idle
from stages.lib.core.files import write_text
from stages.lib.model import tensors

HERE = Path(__file__).parent
ROUNDS = 5
EPOCHS = 10  # of the tutorial
ARCHIVES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
SEEDS = 5
SEEDS_OF_CNN = 2


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    ours: str
    against: str
    ratio: float
    goal: str
    reached: bool


def main() -> None:
    wait_until_idle()
    with tempfile.TemporaryDirectory() as folder:
        project = prepare(Path(folder) / "project")
        rows: list[Row] = []
        parts = [
            *(edit_to_metrics, overhead, training_step, portable_arithmetic),
            *(loading, preprocessing, evaluation, accuracy),
        ]
        for part in tqdm(parts, desc="make bench", unit=" parts"):
            new_rows = part(project)
            tqdm.write("\n".join(map(line, new_rows)))
            rows += new_rows
    write_text(HERE / "results.md", page(rows))
    draw(rows)
    print(page(rows), end="")


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


def edit_to_metrics(project: Path) -> list[Row]:
    """Compare `dvc exp run` after an edited parameter with the tutorial's loop."""
    presets = yaml.safe_load((HERE / "presets.yaml").read_text())
    numbers = iter(range(1000))

    def edited(**parameters: Any) -> float:
        restore(project)  # the experiment before left its parameters in the working tree
        lr = parameters.pop("lr", 0.001) * (1 + next(numbers) / 1000)  # a new value, not in the cache
        settings = [f"{key}={json.dumps(value)}" for key, value in {"lr": lr, **parameters}.items()]
        options = [part for setting in settings for part in ("-S", setting)]
        return seconds_of("dvc", "exp", "run", *options, folder=project)

    seconds = time_alternately(
        {
            "tutorial": lambda: tutorial(project),
            "same training": lambda: edited(arithmetic="native", epochs=EPOCHS, patience=None),
            "recommended": lambda: edited(**presets["recommended"], patience=None),
        },
        ROUNDS,
    )
    restore(project)
    against = f"tutorial's loop, {EPOCHS} epochs: {as_text(seconds['tutorial'])}"
    return [
        ratio_row(
            "`dvc exp run -S lr=...`, training as in the tutorial",
            seconds["same training"],
            against,
            seconds["tutorial"],
            1 / 5,
        ),
        ratio_row("the same, recommended preset", seconds["recommended"], against, seconds["tutorial"], 1 / 10),
    ]


def overhead(project: Path) -> list[Row]:
    """Measure the cost of DVC and of starting the stages, with little or nothing to compute."""
    empty = project.parent / "empty"
    empty.mkdir()
    names = ["check", "download", "normalize", "cache", "train", "evaluate"]
    stages: dict[str, Any] = {name: {"cmd": f"echo {name} > {name}", "outs": [name]} for name in names}
    for before, name in pairwise(names):
        stages[name]["deps"] = [before]
    (empty / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"], ["dvc", "repro", "--quiet"]):
        seconds_of(*command, folder=empty)
    numbers = iter(range(1000))

    def one_step() -> float:
        set_parameters(project, {"lr": 0.001 + next(numbers) / 1e6, "epochs": 1, "batch_size": 54_000})
        return seconds_of("dvc", "repro", folder=project)

    def nothing() -> float:
        return seconds_of("dvc", "repro", folder=project)

    seconds = time_alternately(
        {
            "one step": one_step,
            "nothing": nothing,
            "empty": lambda: seconds_of("dvc", "repro", folder=empty),
            "torch": lambda: seconds_of(sys.executable, "-c", "import torch", folder=empty),
        },
        ROUNDS,
    )
    restore(project)
    lower_bound = seconds["nothing"].median + 2 * seconds["torch"].median
    above = seconds["one step"].median - lower_bound
    return [
        Row(
            "`dvc repro` after a change of lr, one step of training",
            as_text(seconds["one step"]),
            f"nothing to do, and `import torch` twice: {lower_bound:.2f} s",
            seconds["one step"].median / lower_bound,
            f"at most 1.0 s above: {above:+.2f} s",
            above <= 1.0,
        ),
        ratio_row(
            "`dvc repro` with nothing to do",
            seconds["nothing"],
            f"six empty stages: {as_text(seconds['empty'])}",
            seconds["empty"],
            1.15,
        ),
    ]


def training_step(_project: Path) -> list[Row]:
    """Compare a training step with its main parts, and with scikit-learn's."""
    rows = []
    for batch_size in (32, 256):
        seconds = steps.parts_of_a_step(batch_size, ROUNDS)
        ours = seconds["ours"].median
        ours_text = f"{ours * 1e6:.0f} us ± {seconds['ours'].spread:.0%}"
        parts = {name: seconds[name].median for name in ("matrix products", "optimizer")}
        parts_text = ", ".join(f"{name} {part * 1e6:.0f} us" for name, part in parts.items())
        ratio = ours / sum(parts.values())
        rows.append(Row(f"a training step, batch {batch_size}", ours_text, parts_text, ratio, "2.00", ratio <= 2))
        ratio = ours / seconds["scikit-learn"].median
        against = f"scikit-learn, without dropout: {seconds['scikit-learn'].median * 1e6:.0f} us"
        rows.append(Row("the same", ours_text, against, ratio, "1.00", ratio < 1))
    return rows


def portable_arithmetic(project: Path) -> list[Row]:
    """Compare portable with native arithmetic: steps, and the whole time after a change of lr at the defaults."""
    rows = []
    for model, batch_size, goal in (("mlp", 32, 2.5), ("mlp", 256, 2.5), ("cnn", 32, 4.0)):
        seconds = steps.both_arithmetics(model, batch_size, ROUNDS)
        ours, native = seconds["portable"], seconds["native"].median
        text, ratio = f"{ours.median * 1e6:.0f} us ± {ours.spread:.0%}", ours.median / native
        name = f"a portable step of {model}, batch {batch_size}"
        rows.append(Row(name, text, f"native: {native * 1e6:.0f} us", ratio, f"{goal:.2f}", ratio <= goal))
        if (model, batch_size) == ("mlp", 32):
            peer = seconds["scikit-learn"].median
            against = f"scikit-learn, without dropout: {peer * 1e6:.0f} us"
            rows.append(Row("the same", text, against, ours.median / peer, "1.00", ours.median <= peer))

    defaults = project.parent / "defaults"
    subprocess.run(["git", "clone", "--quiet", HERE.parent, defaults], check=True)
    seconds_of("dvc", "repro", folder=defaults)
    numbers = iter(range(1000))

    def edited(arithmetic: str) -> float:
        lr = 0.001 * (1 + next(numbers) / 1000)
        return seconds_of("dvc", "exp", "run", "-S", f"lr={lr}", "-S", f"arithmetic={arithmetic}", folder=defaults)

    whole = time_alternately({name: partial(edited, name) for name in ("portable", "native")}, ROUNDS)
    name, against = "`dvc exp run -S lr=...` at the defaults", f"native: {as_text(whole['native'])}"
    return [*rows, ratio_row(name, whole["portable"], against, whole["native"], 1.3)]


def loading(project: Path) -> list[Row]:
    """Compare an epoch with as many steps on one batch."""
    rows = []
    for batch_size in (32, 256):
        seconds = steps.feeding(project / "data/tensors/train", batch_size, ROUNDS)
        against = f"as many steps on one batch: {as_text(seconds['one batch'])}"
        rows.append(ratio_row(f"an epoch, batch {batch_size}", seconds["loaded"], against, seconds["one batch"], 1.05))
    return rows


def preprocessing(project: Path) -> list[Row]:
    """Compare download, normalize and cache with a script that only reads and writes."""
    mirror = project.parent / "MNIST/raw"
    os.environ["DATASET_MIRROR"] = str(mirror)
    numbers = iter(range(1000))

    def ours() -> float:
        names = ("download", "normalize", "cache")
        return sum(seconds_of(sys.executable, "-m", f"stages.{name}", folder=project) for name in names)

    def lower_bound() -> float:
        folder = project.parent / f"floor{next(numbers)}"
        folder.mkdir()
        seconds = seconds_of(
            sys.executable, "-m", "benchmarks.floors", "prepare", str(mirror), str(folder), folder=HERE.parent
        )
        shutil.rmtree(folder)
        return seconds

    seconds = time_alternately({"ours": ours, "lower bound": lower_bound}, ROUNDS)
    against = f"read gz, write tensors, their imports: {as_text(seconds['lower bound'])}"
    name = "download, normalize and cache, whole MNIST"
    return [ratio_row(name, seconds["ours"], against, seconds["lower bound"], 1.5)]


def evaluation(project: Path) -> list[Row]:
    """Compare evaluate with a script that only computes the accuracy."""
    seconds = time_alternately(
        {
            "ours": lambda: seconds_of(sys.executable, "-m", "stages.evaluate", folder=project),
            "lower bound": lambda: seconds_of(
                sys.executable, "-m", "benchmarks.floors", "evaluate", str(project), folder=HERE.parent
            ),
        },
        2 * ROUNDS,
    )
    against = f"imports and the forward pass: {as_text(seconds['lower bound'])}"
    return [ratio_row("evaluate, 10,000 images", seconds["ours"], against, seconds["lower bound"], 1.2)]


def accuracy(project: Path) -> list[Row]:
    """Measure the time to 98.0 % on val, and the accuracy in a fifth of the tutorial's time."""
    presets = yaml.safe_load((HERE / "presets.yaml").read_text())

    def train(preset: str, seed: int) -> float:
        restore(project)
        set_parameters(project, presets[preset] | {"patience": None, "seed": seed})
        return seconds_of(sys.executable, "-m", "stages.train", folder=project)

    def metric(name: str, file: str) -> float:
        return float(json.loads((project / "reports" / file).read_text())[name])

    def test_accuracies(preset: str, seeds: int) -> list[float]:
        accuracies = []
        for seed in range(seeds):
            train(preset, seed)
            seconds_of(sys.executable, "-m", "stages.evaluate", folder=project)
            accuracies.append(metric("accuracy", "metrics.json"))
        return accuracies

    seconds = time_alternately(
        {
            "tutorial": lambda: tutorial(project),
            "first-98": lambda: train("first-98", 0),
            "accurate": lambda: train("accurate", 0),
        },
        ROUNDS,
    )
    train("first-98", 0)
    first, loop = seconds["first-98"], seconds["tutorial"]
    name = f"a cold process to {metric('val_accuracy', 'train.json'):.2%} on val (preset first-98)"
    peer_seconds, peer_score, peer_epochs = scikit_learn(project)
    accurate = test_accuracies("accurate", SEEDS)
    cnn = test_accuracies("cnn", SEEDS_OF_CNN)
    restore(project)
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
    for preset, scores, goal in (("accurate", accurate, 0.99), ("cnn", cnn, 0.995)):
        rows.append(
            Row(
                f"preset {preset} on test, {len(scores)} seeds, chosen on val",
                f"{np.mean(scores):.2%} ± {np.std(scores, ddof=1):.2%}",
                "goal",
                float(np.mean(scores) / goal),
                f"{goal:.1%}",
                bool(np.mean(scores) >= goal),
            )
        )
    return rows


def tutorial(project: Path) -> float:
    """Return the seconds of the tutorial's loop, extrapolated from one epoch."""
    command = [sys.executable, "-m", "benchmarks.tutorial", str(project.parent), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return EPOCHS * float(done.stdout.split()[0])


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


# --- Shared by the parts ---


def set_parameters(project: Path, parameters: dict[str, Any]) -> None:
    """Change values in params.yaml of the clone."""
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | parameters, sort_keys=False))


def restore(project: Path) -> None:
    """Restore the clone to its commit."""
    seconds_of("git", "checkout", "--quiet", ".", folder=project)
    seconds_of("dvc", "checkout", "--quiet", "--force", folder=project)


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


def draw(rows: list[Row]) -> None:
    """Draw the ratios as bars, and their goals as marks."""
    rows = [row for row in rows if row.goal.replace(".", "").isdigit()]
    positions = range(len(rows))
    with svg_chart(HERE / "results.svg", (9, 0.5 * len(rows) + 1)) as axes:
        axes.barh(positions, [row.ratio for row in rows], color=["#2a7" if row.reached else "#d62" for row in rows])
        axes.plot([float(row.goal) for row in rows], positions, "k|", markersize=18, label="goal")
        axes.set_yticks(positions, [f"{row.name}\nagainst {row.against.split(':')[0]}" for row in rows], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("ratio (lower is faster)")


if __name__ == "__main__":
    run(main)
