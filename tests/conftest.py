"""Copies of the project for the tests: real files, the real git, the real dvc.

A copy has the tracked code, and every parameter at its default. It has nothing else of the clone that the tests run in:
no data, cache, DVC remote or results, and no changed value in `params.yaml`. So the tests pass whatever results and
parameters are committed. Only tests marked `committed` look at those.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from dvc.utils.serialize import load_yaml, modify_yaml

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["download", "normalize", "cache", "train", "evaluate"]  # after check
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
RUNTIME = ROOT / "demo/node_modules/onnxruntime-web"  # `make test` installs it, if there is npm
STARTED: list[subprocess.Popen[bytes]] = []  # by the current test
# Environment variables that the stages and commands read, and those that the Makefile reads.
OURS = ("DATASET_MIRROR", "DEVICE", "LOADER_WORKERS", "PIPELINE_DEBUG", "TORCHRUN")
MAKE_VARIABLES = ("BASE", "IMAGES", "INVERT", "JOBS", "NAME", "PART", "PLACE")


def environment() -> dict[str, str]:
    """The environment of a user: this Python first in PATH, a git identity, and no variable of this project or AWS."""
    foreign = ("GIT_", "MAKE", "MFLAGS", "AWS_")
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(foreign) and name not in OURS + MAKE_VARIABLES
    }
    for role in ("AUTHOR", "COMMITTER"):
        for part in ("NAME", "EMAIL"):
            variables[f"GIT_{role}_{part}"] = "test@example.com"
    return variables | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "none",
        "AWS_SHARED_CREDENTIALS_FILE": "none",
    }


@dataclass
class Running:
    """A running command in its own process group, with its output in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait_for(self, text: str) -> None:
        """Wait until the output contains the text."""
        end = time.monotonic() + 120
        while text not in self.output.read_text():
            assert self.process.poll() is None, f"ended without {text!r}:\n{self.output.read_text()}"
            assert time.monotonic() < end, f"no {text!r} after two minutes:\n{self.output.read_text()}"
            time.sleep(0.005)

    def send(self, number: int) -> bool:
        """Send a signal to the group, wait until all of it has ended, and return whether it was still running."""
        was_running = self.process.poll() is None
        try:
            os.killpg(self.process.pid, number)
            self.process.wait(timeout=120)
            while True:
                os.killpg(self.process.pid, 0)
                time.sleep(0.005)
        except ProcessLookupError:
            self.process.wait(timeout=120)
        return was_running


@dataclass
class Project:
    """A copy of the project in a folder."""

    root: Path

    def run(self, *command: str, fails: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the copy, which has to succeed, or to fail if `fails`."""
        done = subprocess.run(
            command, cwd=self.root, env=environment() | variables, capture_output=True, text=True, timeout=300
        )
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str, **variables: str) -> Running:
        """Start a command in the copy."""
        output = self.root.parent / f"{self.root.name}.output"
        with output.open("w") as file:
            process = subprocess.Popen(
                command,
                cwd=self.root,
                env=environment() | {"PYTHONUNBUFFERED": "1"} | variables,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        STARTED.append(process)
        return Running(process, output)

    def stage(self, name: str, *, fails: bool = False, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run one stage without DVC."""
        return self.run("python", "-W", "error", "-m", f"stages.{name}", fails=fails, **variables)

    def command(self, name: str, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        """Run one of the commands in commands/."""
        return self.run("python", "-W", "error", "-m", f"commands.{name}", *arguments, fails=fails)

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro` and return the stages that ran, without check, which runs whenever params.yaml changes."""
        lines = self.run("dvc", "repro", *arguments).stdout.splitlines()
        stages = [line.split("'")[1] for line in lines if line.startswith("Running stage")]
        return [stage for stage in stages if stage != "check"]

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that occurs exactly once in a file."""
        file = self.root / path
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new))

    def set(self, **parameters: object) -> None:
        """Change values in params.yaml."""
        set_parameters(self.root / "params.yaml", **parameters)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def forget(self, stage: str) -> None:
        """Delete the outputs of a stage and the cache, so that the next `dvc repro` runs it."""
        shutil.rmtree(self.root / ".dvc/cache")
        for out in outs(stage):
            path = self.root / out
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def copy(self, root: Path) -> "Project":
        """Copy the project, with data and cache."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)


Count = Callable[[str, int], None]  # adds to a number in the summary of a run with --torture


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", action="store_true", help="long tests, with many more interruptions and damaged files"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with `@pytest.mark.torture(quick=1, long=8)` once, or with --torture 8 times, numbered by `part`."""
    if mark := metafunc.definition.get_closest_marker("torture"):
        times = mark.kwargs["long" if metafunc.config.getoption("torture") else "quick"]
        metafunc.parametrize("part", range(times))


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether the tests run with --torture."""
    return bool(request.config.getoption("torture"))


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """A function that adds to a number in the summary."""
    return record_property


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("torture"):
        counts: Counter[str] = Counter()
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
            if report.when == "call":
                for name, number in report.user_properties:
                    counts[name] += number
        counts["faults"] = len(terminalreporter.getreports("failed")) + len(terminalreporter.getreports("error"))
        for name, number in counts.items():
            terminalreporter.write_line(f"{number:>7,} {name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Drop tests that need `--torture`, a GPU or a browser if there is none, and run those without the pipeline first.

    In CI tests in a browser are not dropped, but fail.
    """
    items[:] = [item for item in items if "NOTSET" not in item.name]  # pytest's name of a test to run 0 times
    if not torch.cuda.is_available():
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    if not (BROWSER and DRIVER and RUNTIME.exists()) and "CI" not in os.environ:
        items[:] = [item for item in items if not item.get_closest_marker("browser")]
    items.sort(key=lambda item: bool({"fresh", "project", "reproduced"} & set(getattr(item, "fixturenames", ()))))


def outs(stage: str) -> list[str]:
    """The paths that a stage writes: its outs, metrics and plots in dvc.yaml."""
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in listed.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def artifacts(project: Project) -> dict[str, str]:
    """Path -> md5 of dvc.lock and every file below data/, models/ and reports/, also of temporary files."""
    files = [project.root / "dvc.lock"]
    for folder in ("data", "models", "reports"):
        files += (project.root / folder).rglob("*")
    return {
        str(file.relative_to(project.root)): hashlib.md5(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file() and file.name != ".gitignore"
    }


def set_parameters(path: Path, **parameters: object) -> None:
    """Change values in a params.yaml, each to one line, however many lines it had."""
    lines = path.read_text().splitlines()
    for key, value in parameters.items():
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        end = start + 1
        while end < len(lines) and lines[end].startswith((" ", "-")):
            end += 1
        lines[start:end] = [f"{key}: {value}"]
    path.write_text("\n".join(lines) + "\n")


@cache
def default_parameters() -> str:
    """The clone's params.yaml with every key at its default: unchanged if they are, otherwise as DVC writes it."""
    properties = json.loads((ROOT / "params.schema.json").read_text())["properties"]
    defaults = {key: schema["default"] for key, schema in properties.items()}
    if load_yaml(ROOT / "params.yaml") == defaults:
        return (ROOT / "params.yaml").read_text()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(shutil.copy(ROOT / "params.yaml", folder))
        with modify_yaml(path) as values:
            for key in defaults:
                if values.get(key) != defaults[key]:
                    values[key] = defaults[key]
        return path.read_text()


def tracked_files() -> list[str]:
    """The tracked files of the clone that exist."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in filter(None, listing.split("\0")) if (ROOT / name).is_file()]


def checkout(root: Path, *, results: bool = False) -> Project:
    """Make a git repository of one commit: this clone's code and default parameters, or everything if `results`."""
    source = yaml.safe_load((ROOT / "params.yaml").read_text())["source"]
    left_out = ("params.yaml", "dvc.lock", ".dvc/config", "reports/", "data/source/", f"{source}/")
    for name in tracked_files():
        if results or not (name.startswith(left_out) or name.endswith(".dvc")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    if not results:
        (root / "params.yaml").write_text(default_parameters())
        (root / "data/source").mkdir(parents=True)
        (root / "data/source/README.md").write_text("Your own images.\n")
        (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    project = Project(root)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    project.commit("the project")
    return project


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    """End the processes that a test has started, even if it fails."""
    yield
    while STARTED:
        with STARTED.pop() as process, suppress(ProcessLookupError):  # which waits for it, and closes its pipes
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def fresh(reproduced: Project, tmp_path: Path) -> Project:
    """A fresh clone: results in git, but no data, no model, no cache."""
    fresh = Project(tmp_path / "fresh")
    reproduced.run("git", "clone", "--quiet", ".", str(fresh.root))
    fresh.run("git", "remote", "remove", "origin")
    return fresh


@pytest.fixture(scope="session")
def first_repro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, float]]:
    """A project after its first `dvc repro`, committed, and the seconds of each stage, including DVC's work."""
    project = checkout(tmp_path_factory.mktemp("session") / "reproduced")
    running = project.start("dvc", "repro")
    starts = []
    for stage in STAGES:
        running.wait_for(f"Running stage '{stage}'")
        starts.append(time.monotonic())
    assert running.process.wait(timeout=120) == 0, running.output.read_text()
    ends = [*starts[1:], time.monotonic()]
    project.commit("results")
    return project, {stage: end - start for stage, start, end in zip(STAGES, starts, ends, strict=True)}


@pytest.fixture(scope="session")
def reproduced(first_repro: tuple[Project, dict[str, float]]) -> Project:
    """A project after its first `dvc repro`, committed. Shared: copy it before changing it."""
    return first_repro[0]


@pytest.fixture(scope="session")
def seconds(first_repro: tuple[Project, dict[str, float]]) -> dict[str, float]:
    """How long each stage takes."""
    return first_repro[1]


@pytest.fixture
def project(reproduced: Project, tmp_path: Path) -> Project:
    """A copy of a project in which everything is up to date, for one test."""
    return reproduced.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def shipped(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after `make export`. Shared: copy it before changing it."""
    project = reproduced.copy(tmp_path_factory.mktemp("session") / "shipped")
    project.command("export")
    return project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing but default parameters and their schema."""
    (tmp_path / "params.yaml").write_text(default_parameters())
    shutil.copy2(ROOT / "params.schema.json", tmp_path / "params.schema.json")
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
