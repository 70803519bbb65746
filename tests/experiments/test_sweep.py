"""DVC experiments in a temporary folder, in a queue, in a sweep and on several machines, with the real dvc."""

import json
import re
import shlex
import signal
import time
from pathlib import Path

import pytest
import yaml

from experiments.grid import Combination, applied, combinations
from experiments.outcome import Experiment
from experiments.results import DONE, OUTDATED, Result, tracks_source
from experiments.series import table as table_of_scores
from experiments.table import table
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import read
from tests.conftest import Project


def test_the_table_of_a_sweep_is_sorted_by_the_score_on_val_and_averages_seeds() -> None:
    rows: list[tuple[Combination, Experiment]] = [
        ({"lr": 0.1, "seed": 0}, Experiment("a", {"val_accuracy": 0.90, "val_loss": 0.3})),
        ({"lr": 0.1, "seed": 1}, Experiment("b", {"val_accuracy": 0.92, "val_loss": 0.3})),
        ({"lr": 0.01, "seed": 0}, Experiment("c", {"val_accuracy": 0.94, "val_loss": 0.2})),
        ({"lr": 0.01, "seed": 1}, Experiment("d", {"val_accuracy": 0.98, "val_loss": 0.4})),
        ({"lr": 0.001, "seed": 0}, Experiment("e", {"val_accuracy": 0.5, "val_loss": 1.5})),
        ({"lr": 1, "seed": 0}, Experiment("f", {"val_r2": 0.99, "val_loss": 0.1})),  # another task
    ]
    assert [line.split() for line in table_of_scores(rows)] == [
        ["lr", "runs", "val_accuracy", "val_loss", "best"],
        ["0.01", "2", "0.9600", "±", "0.0283", "0.3000", "±", "0.1414", "d"],
        ["0.1", "2", "0.9100", "±", "0.0141", "0.3000", "±", "0.0000", "b"],
        ["0.001", "1", "0.5000", "1.5000", "e"],
        ["1", "1", "-", "0.1000", "f"],
    ]


def test_the_table_of_experiments_fits_into_80_columns() -> None:
    many = [f"a_parameter_with_a_long_name_{number}=0.125" for number in range(9)]
    long = "augmentation.shift=[" + ",".join(["0.125"] * 30) + "]"
    results = [
        Result("main", "1", DONE, {}, {"val_accuracy": 0.9, "accuracy": 0.8}),
        Result("many", "2", DONE, {}, {"val_accuracy": 0.95, "accuracy": 0.7}),
        Result("a-name-of-thirty-characters-ab", "3", DONE, {}, {"val_accuracy": 0.85, "accuracy": 0.6}),
        Result("failed", "4", "failed", {}, {}),
        Result("saved", "5", OUTDATED, {}, {}),
    ]
    lines = table(results, {"main": [], "many": many, results[2].name: [long], "failed": ["lr=1"], "saved": ["lr=2"]})
    assert max(map(len, lines)) <= 80
    starts = [line.split() for line in lines if not line.startswith(" ")]
    assert [start[:3] for start in starts] == [
        ["experiment", "val_accuracy", "test_accuracy"],
        ["many", "0.9500", "0.7000"],
        ["main", "0.9000", "0.8000"],
        ["a-name-of-thirty-characters-ab", "0.8500", "0.6000"],
        ["failed", "failed", "-"],
        ["saved", "outdated", "-"],
    ]
    assert [start[3:] for start in starts[-2:]] == [["lr=1"], ["lr=2"]]
    assert sum(line.endswith(" ...") for line in lines) == 2, "long lists of changes are shortened"


def test_a_grid_can_vary_keys_of_a_mapping(folder: Path) -> None:
    parameters = read(folder / "params.yaml")
    parameters["optimizer_args"] = {"nesterov": False, "dampening": 0}
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters))
    (folder / "experiments").mkdir()
    good = "good: {optimizer_args.dampening: [0, 0.5], optimizer: [SGD], warmup: [null]}"
    (folder / "experiments/sweeps.yaml").write_text(f"{good}\nbad: {{optimizer_args.dampenin: [0]}}")
    with pytest.raises(UserError, match=r"sweeps.yaml: bad: optimizer_args.dampenin: not a parameter in params.yaml"):
        combinations("bad", parameters)
    grid = combinations("good", parameters | {"optimizer": "SGD"})
    assert [each["optimizer_args.dampening"] for each in grid] == [0, 0.5]
    values = applied(grid[1], parameters)
    assert values["optimizer_args"] == {"nesterov": False, "dampening": 0.5}
    assert values["optimizer"] == "SGD"
    assert parameters["optimizer_args"]["dampening"] == 0, "the base is not changed"


def wait_for_the_queue(project: Project, experiments: int) -> None:
    """Wait until all experiments of the queue have succeeded, and stop its workers."""
    end = time.monotonic() + 240
    while (status := project.run("dvc", "queue", "status").stdout).count("Success") < experiments:
        assert "Failed" not in status
        assert time.monotonic() < end, status
        time.sleep(0.2)
    project.run("dvc", "queue", "stop")


def test_a_temporary_folder_gives_the_same_bits_as_the_workspace(project: Project, tmp_path: Path) -> None:
    """One as a preset, the other as the command that it prints."""
    write_presets(project, small={"lr": 1e-5, "hidden": [32], "activation": "relu", "epochs": 1})
    other = project.copy(tmp_path / "other")
    printed = project.run("python", "-W", "error", "-m", "experiments.presets", "small").stdout
    setting = shlex.split(printed.splitlines()[0])[4:]
    assert setting == ["-S", "lr=1e-05", "-S", "hidden=[32]", "-S", "activation=relu", "-S", "epochs=1"]
    assert re.findall("Running stage '(.*)':", printed) == ["check", "train", "evaluate"]
    assert json.loads((project.root / "models/model.json").read_text())["parameters"]["lr"] == 1e-5
    before = (other.root / "dvc.lock").read_bytes()
    printed = other.run("dvc", "exp", "run", "--temp", "--name", "away", *setting).stdout
    assert re.findall("Running stage '(.*)':", printed) == ["check", "train", "evaluate"]
    assert (other.root / "dvc.lock").read_bytes() == before
    other.run("dvc", "exp", "branch", "away", "away")
    assert other.run("git", "show", "away:dvc.lock").stdout == (project.root / "dvc.lock").read_text()


@pytest.mark.torture(quick=0, long=2)
def test_a_queue(project: Project, part: int) -> None:
    """With two workers, and with one."""
    project.run("dvc", "exp", "run", "--queue", "-S", "epochs=1", "-S", "lr=0.01", "-S", "batch_size=64,128")
    workers = ["--jobs", "2"] if part == 0 else []
    project.run("dvc", "queue", "start", *workers)
    wait_for_the_queue(project, 2)
    shown = project.run("dvc", "exp", "show", "--md", "--drop", ".*", "--keep", "^batch_size$|^lr$").stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines()]
    assert rows[0] == ["lr", "batch_size"]
    assert sorted(rows[4:-1]) == [["0.01", "128"], ["0.01", "64"]]


def write_grids(project: Project, **sweeps: object) -> None:
    """Write experiments/sweeps.yaml."""
    (project.root / "experiments/sweeps.yaml").write_text(json.dumps(sweeps))  # JSON is also YAML


def write_presets(project: Project, **presets: object) -> None:
    """Write experiments/presets.yaml."""
    described = {name: {"purpose": "a test", "parameters": parameters} for name, parameters in presets.items()}
    (project.root / "experiments/presets.yaml").write_text(json.dumps(described))


def run_sweep(project: Project, *arguments: str, fails: bool = False) -> tuple[list[str], str]:
    """Run a sweep and return the lines of its stdout, and its stderr."""
    done = project.run("python", "-W", "error", "-m", "experiments.sweep", *arguments, fails=fails)
    return done.stdout.splitlines(), done.stderr


def table_rows(project: Project) -> list[list[str]]:
    """The rows of `make table`, split into words."""
    lines = project.run("python", "-W", "error", "-m", "experiments.table").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    return [line.split() for line in lines]


def test_a_sweep_and_its_experiments(project: Project, tmp_path: Path) -> None:
    """Run two experiments at a time, one of which fails; with a nested parameter and a null."""
    origin = str(tmp_path / "origin.git")
    project.set(patience=4)
    quick = {"epochs": [1], "lr": [1e38, 0.01], "augmentation.shift": [1], "clip_norm": [None]}
    write_grids(project, quick=quick, again=quick | {"lr": [0.01], "optimizer": ["SGD"]})
    write_presets(project, sgd={"optimizer": "SGD", "epochs": 7})
    project.commit("other sweeps")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")
    before = (project.root / "params.yaml").read_bytes()
    assert [line[:8] for line in table_rows(project)[1:]] == [
        ["main", "outdated", "-"],  # not run with its parameters
        ["no", "experiments", "of", "this", "commit", "yet;", "run", "`make"],
    ]

    lines, errors = run_sweep(project, "quick", "--jobs", "2", "--preset", "sgd", fails=True)
    assert re.fullmatch(r"quick with preset sgd: 2 experiments of [0-9a-f]{7}", lines[0])
    (failed,) = (line for line in lines if "failed" in line)
    assert re.match(r"[12]/2  failed +epochs=1 lr=1e\+38 augmentation.shift=1 clip_norm=null  train: ", failed)
    assert "the training loss became" in failed
    assert "; log: .state/sweep/quick-1.log" in failed
    assert "> python -m stages.train" in (project.root / ".state/sweep/quick-1.log").read_text()
    assert "sweep: error: 1 of 2 experiments failed, see above; run it again to retry them" in errors
    (good,) = (line.split() for line in lines if re.match(r"[12]/2  (?!failed)", line))
    name, accuracy = good[1], good[good.index("val_accuracy") + 1]
    assert lines[-1].split()[:2] == ["1", "0.01"]
    assert lines[-1].split()[-1] == name
    assert (project.root / "params.yaml").read_bytes() == before, "it runs in a clone"
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert project.run("git", "stash", "list").stdout == ""
    assert not list(project.root.glob(".state/sweep/clones-*"))

    difference = project.run("dvc", "exp", "diff", "HEAD", name, "--md").stdout
    assert re.search(r"\| params.yaml +\| augmentation.shift +\| 0 +\| 1 +\|", difference)
    assert re.search(r"\| reports/metrics.json +\| accuracy +\|", difference)

    project.run("dvc", "exp", "apply", name)
    assert f"{json.loads((project.root / 'reports/train.json').read_text())['val_accuracy']:.4f}" == accuracy
    assert project.repro() == []
    lines, _ = run_sweep(project, "again")
    assert lines[0].endswith("(params.yaml): 1 already run, 0 to run")
    assert lines[-1].split()[-1] == name
    project.run("dvc", "exp", "branch", name, "proposal")
    project.run("git", "diff", "--exit-code", "proposal")

    project.run("dvc", "exp", "push", "origin", name)
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "--quiet", origin, str(clone.root))
    assert name in clone.run("dvc", "exp", "list", "origin").stdout
    clone.run("dvc", "exp", "pull", "origin", name)
    # There is no DVC remote: the results are in git.
    assert re.search(r"lr +0.001 +0.01 ", clone.run("dvc", "exp", "diff", "HEAD", name).stdout)
    rows = table_rows(clone)
    assert rows[0] == ["experiment", "val_accuracy", "test_accuracy", "changed"]
    (row,) = (row for row in rows if row[0] == name)
    assert row[1] == accuracy
    assert "augmentation.shift=1" in row


def test_an_interrupted_sweep_can_be_continued(project: Project) -> None:
    common = {"patience": [None], "lr": [0.01]}
    write_grids(project, long=common | {"epochs": [1, 1000]}, rest=common | {"epochs": [1, 2]})
    project.commit("other sweeps")
    running = project.start("python", "-W", "error", "-m", "experiments.sweep", "long")
    log = project.root / ".state/sweep/long-2.log"
    running.wait_for("1/2")
    end = time.monotonic() + 120
    while not log.exists() or not re.search("epoch +2/1000", log.read_text()):
        assert time.monotonic() < end, running.output.read_text()
        time.sleep(0.01)
    assert running.send(signal.SIGINT)
    printed = running.output.read_text()
    assert running.process.returncode == 130
    assert printed.endswith("sweep: interrupted\n1 of 2 are done; run the same command again to continue\n")
    assert "train: interrupted" in log.read_text()
    assert not list(project.root.glob(".state/sweep/clones-*"))
    assert project.run("git", "status", "--porcelain").stdout == ""

    lines, _ = run_sweep(project, "rest")
    assert lines[0].endswith(": 1 already run, 1 to run")
    first, second = printed.splitlines()[1].split()[1], lines[1].split()[1]
    assert re.match(rf"2/2  {second} +patience=null lr=0.01 epochs=2  val_accuracy ", lines[1])
    assert sorted(line.split()[-1] for line in lines[-2:]) == sorted([first, second])

    # With other code, it is another experiment.
    project.edit("stages/train.py", "def main() -> None:\n", 'def main() -> None:\n    raise UserError("changed")\n')
    lines, _ = run_sweep(project, "rest", "--part", "1/2", fails=True)
    assert re.fullmatch(r"rest: 1 experiments of \w+ with uncommitted changes \(stages/train.py\)", lines[0])
    assert " train: error: changed; log: .state/sweep/rest-1.log" in lines[1]
    project.set(lr=0.5)
    project.run("dvc", "exp", "save", "--name", "saved")
    project.set(lr=0.6)
    rows = {row[0]: row[1:] for row in table_rows(project)}
    assert {"lr=0.01", "epochs=1"} <= set(rows[first])
    assert {"lr=0.01", "epochs=2"} <= set(rows[second])
    assert rows["saved"][2:] == ["lr=0.5", "code"]
    assert rows["workspace"] == ["outdated", "-", "lr=0.6", "code"]
    scores = [float(row[0]) for row in rows.values() if row[0][0].isdecimal()]
    assert len(scores) == 4, "two of the sweep, the saved one and the commit"
    assert scores == sorted(scores, reverse=True)


def test_invalid_sweeps_are_refused(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusal(*arguments: str) -> str:
        lines, errors = run_sweep(fresh, *arguments, fails=True)
        assert lines == [], "nothing was run"
        assert len(errors.splitlines()) == 1
        return errors

    for part in ("0/2", "3/2", "half", "1/99"):
        assert f"sweep: error: PART: found `{part}`, expected a share such as 1/2" in refusal(
            "learning-rate", "--part", part
        )
    assert "argument --jobs: found `0`, expected a whole number of at least 1" in refusal(
        "learning-rate", "--jobs", "0"
    )
    assert "the following arguments are required: name; -h shows the usage" in refusal()
    assert "PRESET: found `nope`, expected one of mnist, recommended," in refusal("learning-rate", "--preset", "nope")
    assert "no sweep `nope`, expected one of learning-rate: make sweep NAME=" in refusal("nope")
    write_grids(
        fresh,
        odd={"lr": 3},
        unknown={"rl": [3]},
        kinds={"optimizer_args": [{"nesterov": True}]},
        twice={"lr": [0.1, 1e-1]},
        overlap={"augmentation": [None], "augmentation.shift": [1]},
        option={"epochs": [1], "loss_args.weight": ["balanced", "balancd"]},
        range={"epochs": [1], "lr": [0.01, -1]},
        pair={"hidden": [[8], [8, 8, 8]], "activation": [["relu"]]},
    )
    assert "sweep: error: experiments/sweeps.yaml: odd: expected lines of `parameter: [value, value]`" in refusal("odd")
    assert "unknown: rl: not a parameter in params.yaml" in refusal("unknown")
    assert "kinds: optimizer_args: found a mapping, expected numbers, names, lists, true, false" in refusal("kinds")
    assert "twice: lr=0.1 is listed twice" in refusal("twice")
    assert "augmentation and augmentation.shift overlap; vary the mapping or one of its keys" in refusal("overlap")
    assert "loss_args.weight=balancd: loss_args.weight: unknown name `balancd`" in refusal("option")
    assert "range: epochs=1 lr=-1: lr: found -1, expected a number above 0" in refusal("range")
    assert 'pair: hidden=[8,8,8] activation=["relu"]: activation has 1 items and hidden has 3' in refusal("pair")
    # Images that git does not track may have changed, so their experiments are run again.
    monkeypatch.chdir(fresh.root)
    for source, tracked in (("data/source", True), ("data/raw/dataset", False), (str(fresh.root.parent), False)):
        assert tracks_source({"dataset": "folder", "source": source}) == tracked
    assert tracks_source({"dataset": "mnist", "source": "data/raw/dataset"})
    (fresh.root / "experiments/sweeps.yaml").write_text("")
    assert "experiments/sweeps.yaml: found nothing, expected lines of" in refusal("odd")
    assert not (fresh.root / ".state/sweep").exists()


@pytest.mark.torture(quick=0, long=1)
def test_a_sweep_on_two_machines(project: Project, tmp_path: Path, part: int) -> None:
    """Each of two clones runs half of the grid; with a git and a DVC remote, every clone sees all of it."""
    origin = str(tmp_path / "origin.git")
    project.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "remote"))
    write_grids(project, quick={"epochs": [1], "lr": [0.01, 0.02]})
    project.commit("a remote and a sweep")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")
    project.run("dvc", "push")
    for half in ("1/2", "2/2"):
        machine = Project(tmp_path / half.replace("/", " of "))
        project.run("git", "clone", "--quiet", origin, str(machine.root))
        machine.run("dvc", "pull")
        lines, _ = run_sweep(machine, "quick", "--part", half)
        assert lines[0].startswith("quick: 1 experiments of ")
        (log,) = machine.root.glob(".state/sweep/*.log")
        assert "Running stage 'cache'" not in log.read_text()
        machine.run("dvc", "exp", "push", "origin", lines[-1].split()[-1])
    colleague = Project(tmp_path / "colleague")
    project.run("git", "clone", "--quiet", origin, str(colleague.root))
    names = colleague.run("dvc", "exp", "list", "origin", "--name-only").stdout.split()
    assert len(names) == 2
    colleague.run("dvc", "exp", "pull", "origin", *names)
    lines, _ = run_sweep(colleague, "quick")
    assert lines[0].endswith(": 2 already run, 0 to run")
    colleague.run("dvc", "exp", "apply", names[0])
    assert colleague.repro() == [], "models and reports are fetched too"
