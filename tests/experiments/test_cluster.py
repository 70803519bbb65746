"""Experiments on a Dask cluster: a scheduler and workers as real processes, which share only the DVC remote."""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from experiments.on_worker import _missing
from tests.cluster import Cluster, Process, cluster
from tests.conftest import ROOT, Project
from tests.prepared import venv

pytestmark = pytest.mark.xdist_group("experiments on a cluster")

RESULTS = ("dvc.lock", "params.yaml", "reports/metrics.json", "reports/predictions.csv", "reports/train.csv")
SOON = 10  # seconds in which everything of an interrupted sweep has to end


@pytest.fixture(scope="module")
def prepared(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with grids, a preset, and a DVC remote in a folder, by a relative path. Shared: copy it."""
    project = reproduced.copy(tmp_path_factory.mktemp("cluster") / "project")
    quick = {"epochs": [1], "patience": [None]}
    sweeps = {
        "quick": {"epochs": [1], "lr": [0.01, 0.02, 1e38]},
        "one": {"split_seed": [1], **quick},
        "long": {"epochs": [1, 100000], "patience": [None]},
        "endless": {"epochs": [100000], "patience": [None]},
    }
    presets = {"small": {"purpose": "a test", "parameters": {"epochs": 1, "hidden": [32], "activation": "relu"}}}
    (project.root / "experiments/sweeps.yaml").write_text(json.dumps(sweeps))  # JSON is also YAML
    (project.root / "experiments/presets.yaml").write_text(json.dumps(presets))
    project.run("dvc", "remote", "add", "--default", "storage", "../storage")
    project.commit("grids and a remote")
    return project


@pytest.fixture
def project(prepared: Project, request: pytest.FixtureRequest) -> Iterator[Project]:
    """A copy for one test; all copies have the same remote."""
    copy = prepared.copy(prepared.root.with_name(request.node.name.replace("[", "-").rstrip("]")))
    yield copy
    shutil.rmtree(copy.root)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster with two workers, in folders of their own. What they start is prepared: never interrupt it."""
    machines, python = tmp_path_factory.mktemp("cluster") / "machines", str(venv() / "bin/python")
    with cluster(machines, workers=2, python=python) as running:
        yield running


def run(project: Project, *arguments: str, fails: bool = False, **variables: str) -> tuple[list[str], str]:
    """Run a command of experiments/ with warnings as errors, and return the lines of its stdout, and its stderr."""
    command, *options = arguments
    done = project.run("python", "-W", "error", "-m", f"experiments.{command}", *options, fails=fails, **variables)
    return done.stdout.splitlines(), done.stderr


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Poll a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not {what} within {seconds} seconds"
        time.sleep(0.02)


def clones(workers: Sequence[Process]) -> list[Path]:
    """The clones of running experiments."""
    below = "dask-scratch-space/worker-*/experiments/tmp*"
    return [clone for worker in workers for clone in worker.folder.glob(below) if clone.is_dir()]


def training(workers: Sequence[Process]) -> bool:
    """Whether an experiment has begun to train."""
    return any((clone / ".state/train.lock").exists() for clone in clones(workers))


def processes(workers: Sequence[Process]) -> list[str]:
    """The commands of running processes whose working directories are clones."""
    folders = tuple(f"{worker.folder}/dask-scratch-space/" for worker in workers)
    running = [each.info for each in psutil.process_iter(["cwd", "cmdline"])]
    return [" ".join(each["cmdline"] or []) for each in running if (each["cwd"] or "").startswith(folders)]


def experiments_of(project: Project) -> set[str]:
    """The names of all experiments."""
    return set(project.run("dvc", "exp", "list", "--name-only").stdout.split())


def file_of(project: Project, name: str, path: str) -> str:
    """The text of a file in an experiment."""
    refs = project.run("git", "for-each-ref", "--format=%(refname)", "refs/exps").stdout.split()
    (ref,) = (ref for ref in refs if ref.endswith(f"/{name}"))
    return project.run("git", "show", f"{ref}:{path}").stdout


def test_a_sweep_on_two_workers(project: Project, two_workers: Cluster) -> None:
    """Two experiments that succeed and one that fails, with an uncommitted change."""
    project.set(batch_size=128)
    lines, errors = run(project, "sweep", "quick", fails=True, CLUSTER=two_workers.address)
    assert re.fullmatch(r"quick: 3 experiments of [0-9a-f]{7} with uncommitted changes \(params.yaml\)", lines[0])
    assert len(lines) == 8, "\n".join(lines)
    (failed,) = (line for line in lines if "failed" in line)
    assert re.match(r"[1-3]/3  failed +epochs=1 lr=1e\+38  train: error: .*; log: .state/sweep/quick-3.log", failed)
    assert "> python -m stages.train" in (project.root / ".state/sweep/quick-3.log").read_text()
    names = {
        match[2]: match[1] for line in lines if (match := re.match(r"[1-3]/3  (\S+) +epochs=1 (lr=0\.\d+) ", line))
    }
    assert names.keys() == {"lr=0.01", "lr=0.02"}
    assert all(
        re.search(r"  val_accuracy 0\.\d{4}  val_loss \d\.\d{4}  \d+ s", line) for line in lines[1:4] if line != failed
    )
    assert lines[-3].split()[:4] == ["epochs", "lr", "runs", "val_accuracy"]
    said = errors.splitlines()
    assert re.fullmatch(r"cluster: 2 worker\(s\), 2 thread\(s\); dashboard http://\S+", said[0])
    assert re.fullmatch(r"cluster: pushing \d+ file\(s\) to the DVC remote `storage`", said[1])
    assert said[2:] == ["sweep: error: 1 of 3 experiments failed, see above; run it again to retry them"]
    assert experiments_of(project) == set(names.values())
    assert project.run("git", "status", "--porcelain").stdout == " M params.yaml\n"
    assert project.run("git", "stash", "list").stdout == ""
    assert clones(two_workers.workers) == []

    lines, errors = run(project, "sweep", "quick", "--part", "2/3", CLUSTER="tcp://127.0.0.1:1")
    assert lines[0].endswith(": 1 already run, 0 to run")
    assert errors == "", "nobody is asked if there is nothing to run"
    project.run("git", "restore", ".")
    assert "have been applied" in project.run("dvc", "exp", "apply", names["lr=0.02"]).stdout
    assert project.repro() == [], "its model is in the cache"


def test_a_preset_with_two_seeds(project: Project, two_workers: Cluster) -> None:
    """On the cluster, and here in clones: the same bytes."""
    local = project.copy(project.root.with_name("local"))
    tables, results = [], []
    for where, address, jobs in ((project, two_workers.address, "1"), (local, "", "2")):
        lines, _ = run(where, "presets", "small", "--seeds", "2", "--jobs", jobs, CLUSTER=address)
        assert re.fullmatch(r"small: 2 experiments of [0-9a-f]{7}", lines[0])
        runs = [re.match(r"[12]/2  (\S+) +seed=([01])  val_accuracy ", line) for line in lines[1:3]]
        names = {match[2]: match[1] for match in runs if match}
        assert names.keys() == {"0", "1"}
        assert lines[4].split() == ["runs", "val_accuracy", "val_loss", "best"]
        tables.append(lines[5].split()[:-1])
        results.append([{path: file_of(where, names[seed], path) for path in RESULTS} for seed in ("0", "1")])
    assert tables[0] == tables[1]
    assert re.fullmatch(r"2 0\.\d{4} ± 0\.\d{4} \d\.\d{4} ± \d\.\d{4}", " ".join(tables[0]))
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]
    shutil.rmtree(local.root)


@pytest.mark.torture(quick=1, long=2)
def test_the_experiment_of_a_lost_worker_is_run_by_another(project: Project, tmp_path: Path, part: int) -> None:
    """Of one that is killed, and of one that closes."""
    # The stages must not wait for a cluster whose threads wait for them.
    with cluster(tmp_path / "machines", workers=2, variables={"CLUSTER": "tcp://127.0.0.1:1"}) as running:
        sweep = project.start("python", "-W", "error", "-m", "experiments.sweep", "one", CLUSTER=running.address)
        wait_until(lambda: training(running.workers), 60, "training")
        (lost,) = (worker for worker in running.workers if clones([worker]))
        lost.send([signal.SIGKILL, signal.SIGTERM][part])
        lost.process.wait(timeout=60)
        wait_until(lambda: not processes([lost]), SOON, "ended")
        assert sweep.process.wait(timeout=60) == 0, sweep.output.read_text()
        (line,) = (line for line in sweep.output.read_text().splitlines() if line.startswith("1/1  "))
        assert re.match(r"1/1  \S+ +split_seed=1 epochs=1 patience=null  val_accuracy ", line)
        assert experiments_of(project) == {line.split()[1]}


def test_an_interrupted_sweep_leaves_no_process_and_keeps_what_has_finished(project: Project, tmp_path: Path) -> None:
    with cluster(tmp_path / "machines", workers=2) as running:
        command = ("python", "-W", "error", "-m", "experiments.sweep")
        sweep = project.start(*command, "long", CLUSTER=running.address)
        sweep.wait_for("1/2  ")
        wait_until(lambda: training(running.workers), 60, "training")
        assert any("stages.train" in each for each in processes(running.workers))
        assert sweep.send(signal.SIGINT)
        wait_until(lambda: not processes(running.workers), SOON, "ended")
        wait_until(lambda: not clones(running.workers), SOON, "removed")
        printed = sweep.output.read_text()
        assert sweep.process.returncode == 130
        assert printed.endswith("sweep: interrupted\n1 of 2 are done; run the same command again to continue\n")
        assert experiments_of(project) == {printed.splitlines()[-3].split()[1]}

        sweep = project.start(*command, "endless", CLUSTER=running.address)
        wait_until(lambda: training(running.workers), 60, "training")
        assert sweep.send(signal.SIGKILL)
        wait_until(lambda: not processes(running.workers), SOON, "ended")
        wait_until(lambda: not clones(running.workers), SOON, "removed")


def test_without_a_cluster_nothing_of_dask_is_imported(tmp_path: Path) -> None:
    program = "import sys, experiments.series, experiments.presets; print({'cloudpickle', 'dask'} & sys.modules.keys())"
    assert Project(tmp_path).run("python", "-c", program, PYTHONPATH=str(ROOT)).stdout == "set()\n"


def test_what_a_cluster_needs_is_checked_first(fresh: Project, two_workers: Cluster, tmp_path: Path) -> None:
    def refusal(*arguments: str) -> str:
        lines, errors = run(fresh, *arguments, fails=True, CLUSTER=two_workers.address)
        assert [line for line in lines if not line.startswith("learning-rate: 9 experiments of ")] == []
        return errors.splitlines()[-1]

    assert refusal("sweep", "learning-rate", "--jobs", "2") == (
        "sweep: error: JOBS: found 2 with CLUSTER, which runs as many experiments at a time as its workers have "
        "threads; unset one of them"
    )
    for arguments in (("sweep", "learning-rate"), ("presets", "cnn-5k", "--seeds", "5")):
        assert re.fullmatch(
            r"\w+: error: CLUSTER: this project has no default DVC remote, .*: dvc remote add --default storage .*",
            refusal(*arguments),
        )
    fresh.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "empty"))
    assert refusal("sweep", "learning-rate") == (
        "sweep: error: neither this folder nor the DVC remote `storage` has the data and models of dvc.lock, which the "
        "workers need; run `dvc repro` first, or `dvc push` where they are"
    )
    assert "expected a folder that all machines share by the same path" in _missing(str(tmp_path / "elsewhere"))
    assert _missing(str(tmp_path)) == ""
    for seeds in ("0", "-1", "five"):
        assert run(fresh, "presets", "cnn-5k", f"--seeds={seeds}", fails=True) == (
            [],
            f"presets: error: argument --seeds: found `{seeds}`, expected a whole number of at least 1; "
            "-h shows the usage\n",
        )
