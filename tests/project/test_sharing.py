"""DVC remotes, clones that pull from them, and merges of two branches, with the real dvc and an S3 server."""

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
    """Configure a remote as in docs/sharing.md, and return the commands that set its credentials."""
    if request.param == "folder":
        project.run("dvc", "remote", "add", "--default", "storage", str(tmp_path / "remote"))
        project.commit("add a remote")
        yield []
        return
    server = project.start("moto_server", "-H", "127.0.0.1", "-p", "0")
    server.wait_for("Running on http://")
    match = re.search(r"http://127.0.0.1:\d+", server.output.read_text())
    assert match
    credentials = {"access_key_id": "user", "secret_access_key": "secret"}
    boto3.client(
        "s3",
        endpoint_url=match[0],
        region_name="us-east-1",
        aws_access_key_id=credentials["access_key_id"],
        aws_secret_access_key=credentials["secret_access_key"],
    ).create_bucket(Bucket="team")
    project.run("dvc", "remote", "add", "--default", "storage", "s3://team/lastbit")
    project.run("dvc", "remote", "modify", "storage", "endpointurl", match[0])
    project.commit("add a remote")
    login_commands = [
        ["dvc", "remote", "modify", "--local", "storage", key, value] for key, value in credentials.items()
    ]
    for command in login_commands:
        project.run(*command)
    yield login_commands


def test_a_clone_that_pulls_is_up_to_date(
    project: Project, reproduced: Project, tmp_path: Path, remote: list[list[str]]
) -> None:
    project.run("dvc", "push")
    project.commit("results")
    assert project.run("git", "grep", "-i", "secret", "--", ".dvc", fails=True).returncode == 1, "expected no match"

    other = clone(project, tmp_path / "other")
    if remote:
        assert "Unable to locate credentials" in other.run("dvc", "pull", fails=True).stderr
    for command in remote:
        other.run(*command)
    other.run("dvc", "pull")
    assert other.repro() == []
    assert artifacts(other) == artifacts(reproduced)


@pytest.mark.parametrize("remote", ["folder"], indirect=True)
def test_repro_pull_fetches_only_what_a_change_needs(project: Project, tmp_path: Path, remote: list[list[str]]) -> None:
    project.run("dvc", "push")
    other = clone(project, tmp_path / "other")
    assert other.repro("--pull", "--allow-missing") == []
    assert not (other.root / ".dvc/cache/files").exists(), "pulled although everything is up to date"
    other.set(epochs=1)
    assert other.repro("--pull", "--allow-missing") == ["train", "evaluate"]
    assert not (other.root / "data/normalized").exists()
    fetched = {str(path.relative_to(other.root)) for path in other.root.glob("data/*/*/*.safetensors")}
    assert fetched == {f"data/tensors/{split}/00000.safetensors" for split in ("train", "val", "test")}


@pytest.mark.torture(quick=0, long=1)
def test_merging_two_branches_that_changed_different_parameters(project: Project, tmp_path: Path, part: int) -> None:
    """As in docs/pull_requests.md: merge, `make repro`, commit."""
    project.set(epochs=1)
    project.commit("one epoch")
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
