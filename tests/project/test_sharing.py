"""DVC remotes, a colleague's clone, and merges of two branches, with the real dvc and an S3 server."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from tests.conftest import Project, artifacts


def clone(project: Project, root: Path) -> Project:
    """Clone the project: the files in git, without data or cache."""
    project.run("git", "clone", "--quiet", str(project.root), str(root))
    return Project(root)


@pytest.fixture(params=["folder", "S3"])
def remote(request: pytest.FixtureRequest, project: Project, tmp_path: Path) -> Iterator[list[list[str]]]:
    """A remote configured as in docs/sharing.md, and the commands that give DVC its credentials."""
    if request.param == "folder":
        project.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "remote"))
        project.commit("a remote")
        yield []
        return
    server = project.start("moto_server", "-H", "127.0.0.1", "-p", "0")
    server.wait_for("Running on http://")
    match = re.search(r"http://127.0.0.1:\d+", server.output.read_text())
    assert match
    credentials = {"access_key_id": "somebody", "secret_access_key": "secret"}
    boto3.client(
        "s3",
        endpoint_url=match[0],
        region_name="us-east-1",
        aws_access_key_id=credentials["access_key_id"],
        aws_secret_access_key=credentials["secret_access_key"],
    ).create_bucket(Bucket="team")
    project.run("dvc", "remote", "add", "--default", "storage", "s3://team/lastbit")
    project.run("dvc", "remote", "modify", "storage", "endpointurl", match[0])
    project.commit("a remote")
    logins = [["dvc", "remote", "modify", "--local", "storage", key, value] for key, value in credentials.items()]
    for command in logins:
        project.run(*command)
    yield logins


def test_a_colleague_pulls_and_runs_nothing(
    project: Project, reproduced: Project, tmp_path: Path, remote: list[list[str]]
) -> None:
    project.run("dvc", "push")
    project.commit("whatever is left to commit")
    assert "secret" not in project.run("git", "grep", "-i", "secret", "--", ".dvc", fails=True).stdout

    colleague = clone(project, tmp_path / "colleague")
    if remote:
        assert "Unable to locate credentials" in colleague.run("dvc", "pull", fails=True).stderr
    for command in remote:
        colleague.run(*command)
    colleague.run("dvc", "pull")
    assert colleague.repro() == []
    assert artifacts(colleague) == artifacts(reproduced)


@pytest.mark.parametrize("remote", ["folder"], indirect=True)
def test_a_machine_that_runs_one_change_pulls_only_what_it_needs(
    project: Project, tmp_path: Path, remote: list[list[str]]
) -> None:
    project.run("dvc", "push")
    machine = clone(project, tmp_path / "machine")
    assert machine.repro("--pull", "--allow-missing") == []
    assert not (machine.root / ".dvc/cache/files").exists(), "everything is up to date, so nothing is pulled"
    machine.set(epochs=1)
    assert machine.repro("--pull", "--allow-missing") == ["train", "evaluate"]
    assert not (machine.root / "data/normalized").exists()
    fetched = {str(path.relative_to(machine.root)) for path in machine.root.glob("data/*/*/*.safetensors")}
    assert fetched == {f"data/tensors/{split}/00000.safetensors" for split in ("train", "val", "test")}


@pytest.mark.torture(quick=0, long=1)
def test_two_branches_that_both_changed_a_number(project: Project, tmp_path: Path, part: int) -> None:
    """As in docs/pull_requests.md: merge, `make repro`, commit."""
    project.set(epochs=1)
    project.commit("quick ones")
    project.run("git", "switch", "--quiet", "--create", "proposal")
    project.set(batch_size=128)
    project.repro()
    project.commit("larger batches")
    project.run("git", "switch", "--quiet", "main")
    project.set(lr=0.01)
    project.repro()
    project.commit("another lr")

    project.run("git", "switch", "--quiet", "proposal")
    merge = project.run("git", "merge", "main", fails=True).stdout
    assert "CONFLICT (content): Merge conflict in dvc.lock" in merge
    assert "params.yaml" not in merge.replace("Auto-merging params.yaml", "")
    assert project.repro() == ["train", "evaluate"]
    project.commit("merged")
    assert project.repro() == []

    assert clone(project, tmp_path / "clone").repro("--allow-missing") == []
    parameters = json.loads((project.root / "models/model.json").read_text())["parameters"]
    assert (parameters["lr"], parameters["batch_size"]) == (0.01, 128)
