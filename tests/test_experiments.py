"""Experiments as a team makes them, with the real dvc: in a folder of their own, in a queue, as a grid, shared."""

import json
import re
import time
from pathlib import Path

import pandas as pd
import pytest
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


def wait_for_the_queue(project: Project, experiments: int) -> None:
    """Until all of the queue have succeeded. Its workers are stopped."""
    end = time.monotonic() + 240
    while (status := project.run("dvc", "queue", "status").stdout).count("Success") < experiments:
        assert "Failed" not in status
        assert time.monotonic() < end, status
        time.sleep(0.2)
    project.run("dvc", "queue", "stop")


def test_a_folder_of_its_own_gives_the_bits_of_the_workspace(project: Project, tmp_path: Path) -> None:
    setting = ["-S", "lr=1e-5", "-S", "hidden=[32]", "-S", "activation=relu", "-S", "epochs=1"]
    other = project.copy(tmp_path / "other")
    printed = project.run("dvc", "exp", "run", *setting).stdout
    assert re.findall("Running stage '(.*)':", printed) == ["train", "evaluate"]
    assert json.loads((project.root / "models/model.json").read_text())["parameters"]["lr"] == 1e-5
    before = (other.root / "dvc.lock").read_bytes()
    printed = other.run("dvc", "exp", "run", "--temp", "--name", "away", *setting).stdout
    assert re.findall("Running stage '(.*)':", printed) == ["train", "evaluate"]
    assert (other.root / "dvc.lock").read_bytes() == before
    other.run("dvc", "exp", "branch", "away", "away")
    assert other.run("git", "show", "away:dvc.lock").stdout == (project.root / "dvc.lock").read_text()


@pytest.mark.torture(quick=0, long=2)
def test_a_queue(project: Project, part: int) -> None:
    """Of two workers, and of one."""
    project.run("dvc", "exp", "run", "--queue", "-S", "epochs=1", "-S", "lr=0.01", "-S", "batch_size=64,128")
    project.run("dvc", "queue", "start", *[["--jobs", "2"], []][part])
    wait_for_the_queue(project, 2)
    shown = project.run("dvc", "exp", "show", "--md", "--drop", ".*", "--keep", "^batch_size$|^lr$").stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines()]
    assert rows[0] == ["lr", "batch_size"]
    assert sorted(rows[4:-1]) == [["0.01", "128"], ["0.01", "64"]]


def test_a_sweep_and_what_becomes_of_its_experiments(project: Project, tmp_path: Path) -> None:
    origin = str(tmp_path / "origin.git")
    sweeps = {"quick": {"epochs": [1], "lr": [-1, 0.01]}, "odd": {"lr": 3}}
    (project.root / "experiments/sweeps.yaml").write_text(yaml.safe_dump(sweeps))
    project.commit("other sweeps")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")
    before = (project.root / "params.yaml").read_bytes()

    done = project.run("python", "-W", "error", "-m", "experiments.sweep", "quick", fails=True)
    refused, good = done.stdout.splitlines()[0].removeprefix("2 experiments: ").split(", ")
    assert f"sweep: error: these experiments failed: {refused}; `dvc queue logs {refused}` shows why" in done.stderr
    last = done.stdout.splitlines()[-1].split()
    assert last[:3] == ["1", "0.01", "1"]
    assert last[-1] == good
    (accuracy,) = re.findall(r"val loss .*, accuracy (0\.\d+)", done.stdout)
    assert last[3] == accuracy
    assert (project.root / "params.yaml").read_bytes() == before, "it runs elsewhere"

    difference = project.run("dvc", "exp", "diff", "HEAD", good, "--md").stdout
    assert re.search(r"\| params.yaml +\| lr +\| 0.001 +\| 0.01 +\|", difference)
    assert re.search(r"\| reports/metrics.json +\| accuracy +\|", difference)

    project.run("dvc", "exp", "apply", good)
    assert f"{json.loads((project.root / 'reports/train.json').read_text())['val_accuracy']:.4f}" == accuracy
    assert project.repro() == []
    project.run("dvc", "exp", "branch", good, "proposal")
    project.run("git", "diff", "--exit-code", "proposal")

    project.run("dvc", "exp", "push", "origin", good)
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "--quiet", origin, str(clone.root))
    assert good in clone.run("dvc", "exp", "list", "origin").stdout
    clone.run("dvc", "exp", "pull", "origin", good)
    # Its data is on no remote: the results, in git, are there all the same.
    assert re.search(r"lr +0.001 +0.01 ", clone.run("dvc", "exp", "diff", "HEAD", good).stdout)


def test_a_sweep_that_is_none(fresh: Project) -> None:
    def refusal(*arguments: str) -> str:
        return fresh.run("python", "-m", "experiments.sweep", *arguments, fails=True).stderr

    for part in ("0/2", "3/2", "half", "1/99"):
        assert f"sweep: error: PART: found `{part}`, expected one such as 1/2" in refusal("learning-rate", part)
    assert "found no sweep `nope`, expected one of learning-rate: make sweep NAME=" in refusal("nope")
    (fresh.root / "experiments/sweeps.yaml").write_text("odd: {lr: 3}")
    assert "sweep: error: experiments/sweeps.yaml: odd: expected lines of `parameter: [value, value]`" in refusal("odd")
    (fresh.root / "experiments/sweeps.yaml").write_text("odd: {rl: [3]}\nkinds: {optimizer_args: [{nesterov: true}]}")
    assert "odd: rl: no parameter of params.yaml" in refusal("odd")
    assert "kinds: expected numbers, names and lists as values" in refusal("kinds")
    (fresh.root / "experiments/sweeps.yaml").write_text("")
    assert "experiments/sweeps.yaml: found nothing, expected lines of" in refusal("odd")
    fresh.run("git", "checkout", "experiments")
    fresh.run("dvc", "exp", "run", "--queue", "-S", "epochs=1")
    assert "DVC's queue holds other experiments; `dvc queue start` runs them" in refusal("learning-rate")


@pytest.mark.torture(quick=0, long=1)
def test_a_sweep_on_two_machines(project: Project, tmp_path: Path, part: int) -> None:
    """Two clones, one git and one DVC remote: each runs its half, and every clone sees the whole."""
    origin = str(tmp_path / "origin.git")
    project.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    (project.root / "experiments/sweeps.yaml").write_text("quick: {epochs: [1], lr: [0.01, 0.02]}\n")
    project.commit("a remote and a sweep")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")
    project.run("dvc", "push")
    for half in ("1/2", "2/2"):
        machine = Project(tmp_path / half.replace("/", " of "))
        project.run("git", "clone", "--quiet", origin, str(machine.root))
        machine.run("dvc", "pull")
        done = machine.run("python", "-W", "error", "-m", "experiments.sweep", "quick", half)
        assert done.stdout.startswith("1 experiments: ")
        assert "Running stage 'cache'" not in done.stdout
        machine.run("dvc", "exp", "push", "origin", done.stdout.splitlines()[0].removeprefix("1 experiments: "))
    colleague = Project(tmp_path / "colleague")
    project.run("git", "clone", "--quiet", origin, str(colleague.root))
    names = colleague.run("dvc", "exp", "list", "origin", "--name-only").stdout.split()
    assert len(names) == 2
    colleague.run("dvc", "exp", "pull", "origin", *names)
    (shown,) = json.loads(colleague.run("dvc", "exp", "show", "--json", "--rev", "HEAD").stdout)[1:]
    assert sorted(each["revs"][0]["data"]["params"]["params.yaml"]["data"]["lr"] for each in shown["experiments"]) == [
        0.01,
        0.02,
    ]
    colleague.run("dvc", "exp", "apply", names[0])
    assert colleague.repro() == [], "models and reports came with it"
