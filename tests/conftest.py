"""Copies of the project for the tests to work in: real files, a real git, the real dvc."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["download", "normalize", "cache", "train", "evaluate"]
OURS = ("DATASET_MIRROR", "DEVICE", "LOADER_WORKERS", "PIPELINE_DEBUG")


def environment() -> dict[str, str]:
    """The environment of a user: our python first, none of our variables set, and a name for git."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS and not name.startswith("GIT_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    who = {f"GIT_{role}_{part}": "test@example.com" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    return kept | who | {"PATH": path, "GIT_CONFIG_GLOBAL": os.devnull}


@dataclass
class Project:
    """A copy of the project in a folder of its own."""

    root: Path

    def run(self, *command: str, fails: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy; it has to succeed, or to fail if `fails`."""
        done = subprocess.run(
            command, cwd=self.root, env=environment() | variables, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def stage(self, name: str, *, fails: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one stage without DVC."""
        return self.run("python", "-W", "error", "-m", f"stages.{name}", fails=fails, **variables)

    def repro(self, *arguments: str) -> list[str]:
        """`dvc repro`: the stages that it ran."""
        lines = self.run("dvc", "repro", *arguments).stdout.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage")]

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that stands exactly once in a file."""
        file = self.root / path
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new))

    def set(self, **parameters: object) -> None:
        """Change values in params.yaml, each in its line."""
        file = self.root / "params.yaml"
        lines = file.read_text().splitlines()
        for key, value in parameters.items():
            number = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
            lines[number] = f"{key}: {value}"
        file.write_text("\n".join(lines) + "\n")

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def copy(self, root: Path) -> "Project":
        """Another copy, with data and cache."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: those that run the pipeline go last."""
    items.sort(key=lambda item: bool({"fresh", "project", "reproduced"} & set(getattr(item, "fixturenames", ()))))


def checkout(root: Path) -> Project:
    """A git repository with the files of this working tree as its one commit: as a fresh clone has them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).exists():  # a file deleted but not yet committed is still listed
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    project = Project(root)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    project.commit("as it is")
    return project


@pytest.fixture
def fresh(tmp_path: Path) -> Project:
    """A fresh clone: no data, no model, no cache."""
    return checkout(tmp_path / "fresh")


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A fresh clone after its first `dvc repro`. Shared: copy it before changing it."""
    project = checkout(tmp_path_factory.mktemp("session") / "reproduced")
    assert project.repro("--force") == STAGES
    return project


@pytest.fixture
def project(reproduced: Project, tmp_path: Path) -> Project:
    """A copy, of the test's own, of a project in which everything is up to date."""
    return reproduced.copy(tmp_path / "project")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory, but for the project's params.yaml and its schema."""
    for name in ("params.yaml", "params.schema.json"):
        shutil.copy2(ROOT / name, tmp_path / name)
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
