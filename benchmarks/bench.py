"""Measure the time from an edited parameter to its metrics, compared with other tools and lower bounds.

    make bench          (python -m benchmarks.bench)          needs MNIST in DATASET_MIRROR or from the network

Out: results.md, results.svg and presets.json in benchmarks/. What is compared runs alternately. The table has medians
of ROUNDS or more. Seconds depend on the machine, ratios less so.
"""

from stages.lib.core.process import run

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from benchmarks import steps
from benchmarks.presets import presets
from benchmarks.project import EPOCHS, HERE, prepare, restore, set_parameters, tutorial
from benchmarks.table import ROUNDS, Row, as_text, draw, line, page, ratio_row
from benchmarks.timing import seconds_of, time_alternately, wait_until_idle
from experiments.presets import overrides, read_preset
from stages.lib.core.files import write_text


def main() -> None:
    wait_until_idle()
    with tempfile.TemporaryDirectory() as folder:
        project = prepare(Path(folder) / "project")
        rows: list[Row] = []
        parts = [
            *(edit_to_metrics, overhead, training_step, portable_arithmetic),
            *(loading, preprocessing, evaluation, presets),
        ]
        for part in tqdm(parts, desc="make bench", unit=" parts"):
            new_rows = part(project)
            tqdm.write("\n".join(map(line, new_rows)))
            rows += new_rows
    write_text(HERE / "results.md", page(rows))
    draw(rows, HERE / "results.svg")
    print(page(rows), end="")


def edit_to_metrics(project: Path) -> list[Row]:
    """Compare `dvc exp run` after an edited parameter with the tutorial's loop."""
    recommended = read_preset("recommended")
    numbers = iter(range(1000))

    def edited(parameters: dict[str, Any]) -> float:
        restore(project)  # the experiment before left its parameters in the working tree
        lr = parameters.get("lr", 0.001) * (1 + next(numbers) / 1000)  # a new value, not in the cache
        return seconds_of("dvc", "exp", "run", *overrides(parameters | {"lr": lr}), folder=project)

    seconds = time_alternately(
        {
            "tutorial": lambda: tutorial(project),
            "same training": lambda: edited({"arithmetic": "native", "epochs": EPOCHS, "patience": None}),
            "recommended": lambda: edited(recommended),
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


if __name__ == "__main__":
    run(main)
