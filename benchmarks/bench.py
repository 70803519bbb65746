"""The seconds between an edited number and its metrics, beside what others take and the least that is possible.

    make bench          (python -m benchmarks.bench), with MNIST in DATASET_MIRROR or reachable

Out: benchmarks/results.md and benchmarks/results.svg. Everything that is compared takes turns in this one run; the
medians are of ROUNDS rounds, and the ratio is what counts: seconds are of one machine on one day.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tqdm import tqdm

from benchmarks import steps
from benchmarks.timing import Measured, refuse_a_loaded_machine, seconds_of, take_turns
from stages.lib.core.files import replacing, write_text
from stages.lib.model import tensors

HERE = Path(__file__).parent
ROUNDS = 5
EPOCHS = 10  # of the tutorial's protocol
ARCHIVES = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
SEEDS = 5
SEEDS_OF_CNN = 2


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    ours: str
    against: str
    ratio: float
    goal: str
    reached: bool


def main() -> None:
    refuse_a_loaded_machine()
    with tempfile.TemporaryDirectory() as folder:
        project = prepared(Path(folder) / "project")
        rows: list[Row] = []
        for part in tqdm(
            [waiting, idle, step, feeding, preparing, evaluating, accuracy], desc="make bench", unit=" parts"
        ):
            found = part(project)
            tqdm.write("\n".join(map(line, found)))
            rows += found
    write_text(HERE / "results.md", page(rows))
    draw(rows)
    print(page(rows), end="")


def prepared(project: Path) -> Path:
    """A clone of this project, run once on the whole of MNIST; beside it the files as torchvision wants them."""
    subprocess.run(["git", "clone", "--quiet", HERE.parent, project], check=True)
    for name in ("user.name", "user.email"):
        subprocess.run(["git", "config", name, "bench"], cwd=project, check=True)
    set_parameters(project, {"dataset": "mnist"})
    seconds_of("dvc", "repro", folder=project)
    seconds_of("git", "commit", "--quiet", "--all", "--message", "MNIST", folder=project)
    raw = project.parent / "MNIST/raw"
    raw.mkdir(parents=True)
    for name in ARCHIVES:
        shutil.copyfile(project / "data/raw/files" / name, raw / name)
        seconds_of("gunzip", "--keep", name, folder=raw)
    return project


def waiting(project: Path) -> list[Row]:
    """From an edited number to its metrics, against the tutorial's loop."""
    presets = yaml.safe_load((HERE / "presets.yaml").read_text())
    numbers = iter(range(1000))

    def edited(**parameters: Any) -> float:
        restore(project)  # an experiment leaves its parameters in the working tree
        lr = parameters.pop("lr", 0.001) * (1 + next(numbers) / 1000)  # a new one, which no cache knows
        settings = [f"{key}={json.dumps(value)}" for key, value in {"lr": lr, **parameters}.items()]
        options = [part for setting in settings for part in ("-S", setting)]
        return seconds_of("dvc", "exp", "run", *options, folder=project)

    found = take_turns(
        {
            "tutorial": lambda: tutorial(project),
            "protocol": lambda: edited(epochs=EPOCHS, patience=None),
            "recommended": lambda: edited(**presets["recommended"], patience=None),
        },
        ROUNDS,
    )
    restore(project)
    peer = f"tutorial's loop, {EPOCHS} epochs: {shown(found['tutorial'])}"
    return [
        row("`dvc exp run -S lr=...`, tutorial's protocol", found["protocol"], peer, found["tutorial"], 1 / 5),
        row("the same, recommended preset", found["recommended"], peer, found["tutorial"], 1 / 10),
    ]


def idle(project: Path) -> list[Row]:
    """What DVC and the stages cost where nothing, or nearly nothing, is to be computed."""
    empty = project.parent / "empty"
    empty.mkdir()
    names = ["check", "download", "normalize", "cache", "train", "evaluate"]
    stages: dict[str, Any] = {
        name: {"cmd": f"echo {name} > {name}", "outs": [name], **({"deps": [names[at - 1]]} if at else {})}
        for at, name in enumerate(names)
    }
    (empty / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for command in (["git", "init", "--quiet"], ["dvc", "init", "--quiet"], ["dvc", "repro", "--quiet"]):
        seconds_of(*command, folder=empty)
    numbers = iter(range(1000))

    def one_step() -> float:
        set_parameters(project, {"lr": 0.001 + next(numbers) / 1e6, "epochs": 1, "batch_size": 54_000})
        return seconds_of("dvc", "repro", folder=project)

    def nothing() -> float:
        return seconds_of("dvc", "repro", folder=project)

    found = take_turns(
        {
            "one step": one_step,
            "nothing": nothing,
            "empty": lambda: seconds_of("dvc", "repro", folder=empty),
            "torch": lambda: seconds_of(sys.executable, "-c", "import torch", folder=empty),
        },
        ROUNDS,
    )
    restore(project)
    least = found["nothing"].median + 2 * found["torch"].median
    above = found["one step"].median - least
    return [
        Row(
            "`dvc repro` after a change of lr, one step of training",
            shown(found["one step"]),
            f"nothing to do, and `import torch` twice: {least:.2f} s",
            found["one step"].median / least,
            f"at most 1.0 s above: {above:+.2f} s",
            above <= 1.0,
        ),
        row(
            "`dvc repro` with nothing to do",
            found["nothing"],
            f"of six empty stages: {shown(found['empty'])}",
            found["empty"],
            1.15,
        ),
    ]


def step(_project: Path) -> list[Row]:
    """One training step."""
    rows = []
    for batch_size in (32, 256):
        found = steps.parts_of_a_step(batch_size, ROUNDS)
        least = found["matrix products"].median + found["optimizer"].median
        ratio = found["ours"].median / least
        told = ", ".join(f"{name} {found[name].median * 1e6:.0f} us" for name in ("matrix products", "optimizer"))
        ours = f"{found['ours'].median * 1e6:.0f} us ± {found['ours'].spread:.0%}"
        rows.append(Row(f"a training step, batch {batch_size}", ours, told, ratio, "2.00", ratio <= 2))
        peer = found["scikit-learn"].median
        rows.append(
            Row(
                "the same",
                ours,
                f"scikit-learn, without dropout: {peer * 1e6:.0f} us",
                found["ours"].median / peer,
                "1.00",
                found["ours"].median < peer,
            )
        )
    return rows


def feeding(project: Path) -> list[Row]:
    """Steps with new batches, against steps on one."""
    rows = []
    for batch_size in (32, 256):
        found = steps.feeding(project / "data/tensors/train", batch_size, ROUNDS)
        peer = f"as many steps on one batch: {shown(found['resident'])}"
        rows.append(row(f"an epoch, batch {batch_size}", found["fed"], peer, found["resident"], 1.05))
    return rows


def preparing(project: Path) -> list[Row]:
    """download, normalize and cache."""
    mirror = project.parent / "MNIST/raw"
    os.environ["DATASET_MIRROR"] = str(mirror)
    numbers = iter(range(1000))

    def ours() -> float:
        names = ("download", "normalize", "cache")
        return sum(seconds_of(sys.executable, "-m", f"stages.{name}", folder=project) for name in names)

    def least() -> float:
        folder = project.parent / f"floor{next(numbers)}"
        folder.mkdir()
        seconds = seconds_of(
            sys.executable, "-m", "benchmarks.floors", "prepare", str(mirror), str(folder), folder=HERE.parent
        )
        shutil.rmtree(folder)
        return seconds

    found = take_turns({"ours": ours, "least": least}, ROUNDS)
    peer = f"read gz, write tensors, their imports: {shown(found['least'])}"
    return [row("download, normalize and cache, whole MNIST", found["ours"], peer, found["least"], 1.5)]


def evaluating(project: Path) -> list[Row]:
    """evaluate."""
    found = take_turns(
        {
            "ours": lambda: seconds_of(sys.executable, "-m", "stages.evaluate", folder=project),
            "least": lambda: seconds_of(
                sys.executable, "-m", "benchmarks.floors", "evaluate", str(project), folder=HERE.parent
            ),
        },
        2 * ROUNDS,
    )
    peer = f"imports and the forward pass: {shown(found['least'])}"
    return [row("evaluate, 10,000 images", found["ours"], peer, found["least"], 1.2)]


def accuracy(project: Path) -> list[Row]:
    """How soon 98.0 % on val, and how accurate in a fifth of the tutorial's time."""
    presets = yaml.safe_load((HERE / "presets.yaml").read_text())

    def trained(preset: str, seed: int) -> float:
        restore(project)
        set_parameters(project, {**presets[preset], "patience": None, "seed": seed})
        return seconds_of(sys.executable, "-m", "stages.train", folder=project)

    def figure(name: str, file: str) -> float:
        return float(json.loads((project / "reports" / file).read_text())[name])

    def seeds(preset: str, number: int) -> list[float]:
        """Accuracies on the test split."""
        found = []
        for seed in range(number):
            trained(preset, seed)
            seconds_of(sys.executable, "-m", "stages.evaluate", folder=project)
            found.append(figure("accuracy", "metrics.json"))
        return found

    found = take_turns(
        {
            "tutorial": lambda: tutorial(project),
            "first-98": lambda: trained("first-98", 0),
            "accurate": lambda: trained("accurate", 0),
        },
        ROUNDS,
    )
    trained("first-98", 0)
    first, whole = found["first-98"], found["tutorial"]
    reached = f"a cold process to {figure('val_accuracy', 'train.json'):.2%} on val (preset first-98)"
    peer_seconds, peer_score, peer_epochs = scikit_learn(project)
    accurate = seeds("accurate", SEEDS)
    cnn = seeds("cnn", SEEDS_OF_CNN)
    restore(project)
    loop = f"tutorial's loop, {EPOCHS} epochs: {shown(whole)}"
    rows = [
        row(reached, first, loop, whole, 1 / 15),
        Row(
            "the same",
            shown(first),
            f"scikit-learn to {peer_score:.2%}, {peer_epochs} epochs: {peer_seconds:.1f} s",
            first.median / peer_seconds,
            "1.00",
            first.median < peer_seconds,
        ),
        row("preset accurate, training from a cold process", found["accurate"], loop, whole, 1 / 5),
    ]
    for preset, scores, goal in (("accurate", accurate, 0.99), ("cnn", cnn, 0.995)):
        rows.append(
            Row(
                f"preset {preset} on test, {len(scores)} seeds, the test split opened once",
                f"{np.mean(scores):.2%} ± {np.std(scores, ddof=1):.2%}",
                "goal",
                float(np.mean(scores) / goal),
                f"{goal:.1%}",
                bool(np.mean(scores) >= goal),
            )
        )
    return rows


def tutorial(project: Path) -> float:
    """Seconds of the tutorial's loop, from one of its epochs."""
    command = [sys.executable, "-m", "benchmarks.tutorial", str(project.parent), "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return EPOCHS * float(done.stdout.split()[0])


def scikit_learn(project: Path) -> tuple[float, float, int]:
    """Seconds until its MLPClassifier of the same layers has 98.0 % on val, imports and reading left out."""
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


# --- What every part needs ---


def set_parameters(project: Path, parameters: dict[str, Any]) -> None:
    """Change params.yaml of the clone."""
    path = project / "params.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | parameters, sort_keys=False))


def restore(project: Path) -> None:
    """Take the clone back to its commit."""
    seconds_of("git", "checkout", "--quiet", ".", folder=project)
    seconds_of("dvc", "checkout", "--quiet", "--force", folder=project)


def shown(measured: Measured) -> str:
    """Median and spread."""
    return f"{measured.median:.2f} s ± {measured.spread:.0%}"


def row(what: str, ours: Measured, against: str, peer: Measured, goal: float) -> Row:
    """A row whose ratio is of the medians."""
    ratio = ours.median / peer.median
    return Row(what, shown(ours), against, ratio, f"{goal:.2f}", ratio <= goal)


def line(row: Row) -> str:
    """A row of the table, in Markdown."""
    reached = "yes" if row.reached else "no"
    return f"| {row.what} | {row.ours} | {row.against} | {row.ratio:.2f} | {row.goal} | {reached} |"


def page(rows: list[Row]) -> str:
    """The table, in Markdown."""
    lines = ["| what | ours | against | ratio | goal | reached |", "|---|--:|---|--:|--:|---|"]
    lines += map(line, rows)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    machine = f"{os.cpu_count()} processors, {platform.system()}, {versions}"
    return f"{machine}; medians of at least {ROUNDS} rounds in turn, ± half their range.\n\n" + "\n".join(lines) + "\n"


def draw(rows: list[Row]) -> None:
    """The ratios as bars, and their goals as marks."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bench"
    from matplotlib import pyplot

    drawn = [row for row in rows if row.goal.replace(".", "").isdigit()]
    figure, axes = pyplot.subplots(figsize=(9, 0.5 * len(drawn) + 1))
    places = range(len(drawn))
    axes.barh(places, [row.ratio for row in drawn], color=["#2a7" if row.reached else "#d62" for row in drawn])
    axes.plot([float(row.goal) for row in drawn], places, "k|", markersize=18, label="goal")
    axes.set_yticks(places, [f"{row.what}\nagainst {row.against.split(':')[0]}" for row in drawn], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("ratio: less is faster")
    axes.legend()
    figure.tight_layout()
    with replacing(HERE / "results.svg") as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    run(main)
