"""Experiments as a team makes them, with the real dvc: in a folder of their own, in a queue, shared."""

import json
import re
import time
from pathlib import Path

from tests.conftest import STAGES, Project


def wait_for_the_queue(project: Project) -> str:
    """Until every experiment of the queue has ended: the queue's table. Its workers are stopped."""
    end = time.monotonic() + 240
    while re.search("Queued|Running", status := project.run("dvc", "queue", "status").stdout):
        assert time.monotonic() < end, status
        time.sleep(0.2)
    project.run("dvc", "queue", "stop")
    return status


def test_a_folder_of_its_own_gives_the_bits_of_the_workspace(fresh: Project, project: Project) -> None:
    setting = ["-S", "lr=1e-5", "-S", "hidden=[32]", "-S", "activation=relu", "-S", "epochs=1"]
    printed = fresh.run("dvc", "exp", "run", *setting).stdout
    assert re.findall("Running stage '(.*)':", printed) == STAGES
    assert json.loads((fresh.root / "models/model.json").read_text())["parameters"]["lr"] == 1e-5
    before = (project.root / "dvc.lock").read_bytes()
    printed = project.run("dvc", "exp", "run", "--temp", "--name", "away", *setting).stdout
    assert re.findall("Running stage '(.*)':", printed) == STAGES[3:]
    assert (project.root / "dvc.lock").read_bytes() == before
    project.run("dvc", "exp", "branch", "away", "away")
    assert project.run("git", "show", "away:dvc.lock").stdout == (fresh.root / "dvc.lock").read_text()


def test_a_queue_and_what_becomes_of_its_experiments(project: Project, tmp_path: Path) -> None:
    origin = str(tmp_path / "origin.git")
    project.run("git", "init", "--quiet", "--bare", "--initial-branch=main", origin)
    project.run("git", "remote", "add", "origin", origin)
    project.run("git", "push", "--quiet", "origin", "main")

    queued = project.run("dvc", "exp", "run", "--queue", "-S", "epochs=1", "-S", "lr=0.01", "-S", "batch_size=64,128")
    small, large = re.findall("Queued experiment '(.+)' for", queued.stdout)
    project.run("dvc", "queue", "start", "--jobs", "2")
    assert wait_for_the_queue(project).count("Success") == 2
    project.run("dvc", "exp", "run", "--queue", "-S", "epochs=1")
    project.run("dvc", "queue", "start")
    assert wait_for_the_queue(project).count("Success") == 3

    shown = project.run("dvc", "exp", "show", "--md", "--drop", ".*", "--keep", "^batch_size$|^lr$").stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in shown.splitlines()]
    assert rows[0] == ["lr", "batch_size"]
    assert sorted(rows[4:-1]) == [["0.001", "32"], ["0.01", "128"], ["0.01", "64"]]

    difference = project.run("dvc", "exp", "diff", small, large, "--md").stdout
    assert re.search(r"\| params.yaml +\| batch_size +\| 64 +\| 128 +\| 64 +\|", difference)
    assert re.search(r"\| reports/metrics.json +\| accuracy +\|", difference)

    project.run("dvc", "exp", "apply", large)
    assert project.repro() == []
    project.run("dvc", "exp", "branch", large, "larger-batches")
    project.run("git", "diff", "--exit-code", "larger-batches")

    project.run("dvc", "exp", "push", "origin", large)
    clone = Project(tmp_path / "clone")
    project.run("git", "clone", "--quiet", origin, str(clone.root))
    assert large in clone.run("dvc", "exp", "list", "origin").stdout
    clone.run("dvc", "exp", "pull", "origin", large)
    # Its data is on no remote: the results, in git, are there all the same.
    assert "128" in clone.run("dvc", "exp", "diff", "--param-deps", "HEAD", large).stdout
