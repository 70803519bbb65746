"""A grid of experiments, with the real dvc."""

import json
import re

import pandas as pd
import yaml

from experiments.sweep import table
from tests.conftest import Project


def test_the_table_is_sorted_by_val_and_joins_seeds() -> None:
    rows = pd.DataFrame(
        {
            "experiment": ["a", "b", "c", "d", "e"],
            "lr": ["0.1", "0.1", "0.01", "0.01", "0.001"],
            "seed": ["0", "1", "0", "1", "0"],
            "val_accuracy": [0.90, 0.92, 0.94, 0.98, 0.5],
            "val_loss": [0.3, 0.3, 0.2, 0.4, 1.5],
        }
    )
    lines = [line.split() for line in table(rows, ["lr", "seed"]).splitlines()]
    assert lines[0] == ["lr", "runs", "val_accuracy", "val_loss", "best"]
    assert lines[1] == ["0.01", "2", "0.9600", "±", "0.0283", "0.3000", "±", "0.1414", "d"]
    assert lines[2] == ["0.1", "2", "0.9100", "±", "0.0141", "0.3000", "±", "0.0000", "b"]
    assert lines[3] == ["0.001", "1", "0.5000", "1.5000", "e"]


def test_a_sweep(project: Project) -> None:
    sweeps = {"quick": {"epochs": [1], "seed": [0, 1]}, "broken": {"lr": [-1]}, "odd": {"lr": 3}}
    (project.root / "experiments/sweeps.yaml").write_text(yaml.safe_dump(sweeps))
    project.commit("other sweeps")
    before = (project.root / "params.yaml").read_bytes()
    printed = project.run("python", "-W", "error", "-m", "experiments.sweep", "quick").stdout
    accuracies = [float(found) for found in re.findall(r"val loss .*, accuracy (0\.\d+)", printed)]
    assert len(accuracies) == 2
    last = printed.splitlines()[-1].split()
    assert last[:2] == ["1", "2"]
    assert abs(float(last[2]) - sum(accuracies) / 2) < 1e-4
    assert (project.root / "params.yaml").read_bytes() == before, "it runs elsewhere"
    project.run("dvc", "exp", "apply", last[-1])
    summary = json.loads((project.root / "reports/train.json").read_text())
    assert abs(summary["val_accuracy"] - max(accuracies)) < 1e-4
    project.run("git", "checkout", ".")

    def refusal(*arguments: str) -> str:
        return project.run("python", "-m", "experiments.sweep", *arguments, fails=True).stderr

    assert re.search(r"sweep: error: these experiments failed: [\w-]+; `dvc queue logs", refusal("broken"))
    assert "sweep: error: experiments/sweeps.yaml: odd: expected lines of `parameter: [value, value]`" in refusal("odd")
    assert "found no sweep `nope`, expected one of broken, odd, quick" in refusal("nope")
