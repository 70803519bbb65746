"""Copies of the project for the tests to work in: real files, a real git, the real dvc.

A copy has the code in git, and every parameter at its default. It sees nothing else of the clone that the tests run in:
no data, no cache, no DVC remote, no results, no value that somebody chose in `params.yaml`. So the tests pass for
whatever is committed there. Only tests marked `committed` look at what is.
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
RUNTIME = ROOT / "demo/node_modules/onnxruntime-web"  # which `make test` fetches, where npm is
STARTED: list[subprocess.Popen[bytes]] = []  # by the test under way
OURS = ("DATASET_MIRROR", "DEVICE", "LOADER_WORKERS", "PIPELINE_DEBUG", "TORCHRUN")
OF_MAKE = ("BASE", "IMAGES", "INVERT", "JOBS", "NAME", "PART", "PLACE")  # which the Makefile takes from the environment


def environment() -> dict[str, str]:
    """The environment of a user: our python first, none of our variables set, and a name for git."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("GIT_", "MAKE", "MFLAGS", "AWS_"))
    }
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    who = {f"GIT_{role}_{part}": "test@example.com" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
    for name in OURS + OF_MAKE:
        kept.pop(name, None)
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": "none"}
    return kept | who | nobody | {"PATH": path, "GIT_CONFIG_GLOBAL": os.devnull}


@dataclass
class Running:
    """A command at work, in a process group of its own; what it prints goes to a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait_for(self, text: str) -> None:
        """Until the text stands in the output."""
        end = time.monotonic() + 120
        while text not in self.output.read_text():
            assert self.process.poll() is None, f"ended without {text!r}:\n{self.output.read_text()}"
            assert time.monotonic() < end, f"no {text!r} after two minutes:\n{self.output.read_text()}"
            time.sleep(0.005)

    def send(self, number: int) -> bool:
        """Send a signal to the whole group, wait until all of it has ended, and say whether it was still at work."""
        at_work = self.process.poll() is None
        try:
            os.killpg(self.process.pid, number)
            self.process.wait(timeout=120)
            while True:
                os.killpg(self.process.pid, 0)
                time.sleep(0.005)
        except ProcessLookupError:
            self.process.wait(timeout=120)
        return at_work


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
        """`dvc repro`: the stages that it ran, but for check, which runs after every change of params.yaml."""
        lines = self.run("dvc", "repro", *arguments).stdout.splitlines()
        stages = [line.split("'")[1] for line in lines if line.startswith("Running stage")]
        return [stage for stage in stages if stage != "check"]

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that stands exactly once in a file."""
        file = self.root / path
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {path}"
        file.write_text(text.replace(old, new))

    def set(self, **parameters: object) -> None:
        """Change values in params.yaml."""
        set_parameters(self.root / "params.yaml", **parameters)

    def commit(self, message: str) -> None:
        """Commit everything."""
        self.run("git", "add", "--all")
        self.run("git", "commit", "--quiet", "--allow-empty", "--message", message)

    def forget(self, stage: str) -> None:
        """Let the next `dvc repro` run this stage, and not take its outputs from the cache."""
        shutil.rmtree(self.root / ".dvc/cache")
        for out in outs(stage):
            path = self.root / out
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def copy(self, root: Path) -> "Project":
        """Another copy, with data and cache."""
        shutil.copytree(self.root, root, symlinks=True)
        return Project(root)


Count = Callable[[str, int], None]  # adds to a figure of the summary that a run with --torture ends with


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", action="store_true", help="the long proofs: many more interruptions and damaged files"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`@pytest.mark.torture(quick=1, long=8)`: run 1 time, or 8 times with --torture, each with another `part`."""
    if mark := metafunc.definition.get_closest_marker("torture"):
        times = mark.kwargs["long" if metafunc.config.getoption("torture") else "quick"]
        metafunc.parametrize("part", range(times))


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether this is the long run."""
    return bool(request.config.getoption("torture"))


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Adds to a figure of the summary."""
    return record_property


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption("torture"):
        figures: Counter[str] = Counter()
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
            if report.when == "call":
                for name, number in report.user_properties:
                    figures[name] += number
        figures["faults"] = len(terminalreporter.getreports("failed")) + len(terminalreporter.getreports("error"))
        for name, number in figures.items():
            terminalreporter.write_line(f"{number:>7,} {name}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first: those that run the pipeline go last. What wants `make torture`, a GPU or a browser, runs there
    alone; where changes are tested, the browser has to be there.
    """
    items[:] = [item for item in items if "NOTSET" not in item.name]  # so pytest calls what is to run 0 times
    if not torch.cuda.is_available():
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    if not (BROWSER and DRIVER and RUNTIME.exists()) and "CI" not in os.environ:
        items[:] = [item for item in items if not item.get_closest_marker("browser")]
    items.sort(key=lambda item: bool({"fresh", "project", "reproduced"} & set(getattr(item, "fixturenames", ()))))


def outs(stage: str) -> list[str]:
    """The paths that a stage writes: outs, metrics and plots of dvc.yaml."""
    listed = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    every = [out for kind in ("outs", "metrics", "plots") for out in listed.get(kind, [])]
    return [out if isinstance(out, str) else next(iter(out)) for out in every]


def artifacts(project: Project) -> dict[str, str]:
    """Path -> md5 of every file below data/, models/ and reports/, half-written ones too, and of dvc.lock."""
    files = [project.root / "dvc.lock"]
    for folder in ("data", "models", "reports"):
        files += (project.root / folder).rglob("*")
    return {
        str(file.relative_to(project.root)): hashlib.md5(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file() and file.name != ".gitignore"
    }


def set_parameters(path: Path, **parameters: object) -> None:
    """Change values in a params.yaml, each written on one line, in place of however many lines it had."""
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
    """The clone's params.yaml with every key at its default; as it is where that holds, otherwise as DVC writes it."""
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
    """The files of the clone that are in git; not the files that are deleted there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in filter(None, listed.split("\0")) if (ROOT / name).is_file()]


def checkout(root: Path, *, results: bool = False) -> Project:
    """A git repository of one commit: the code of this clone and default parameters, or all of it with `results`."""
    chosen = yaml.safe_load((ROOT / "params.yaml").read_text())
    left_out = ("params.yaml", "dvc.lock", ".dvc/config", "reports/", "data/source/", f"{chosen['source']}/")
    for name in tracked_files():
        if results or not (name.startswith(left_out) or name.endswith(".dvc")):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)
    if not results:
        (root / "params.yaml").write_text(default_parameters())
        (root / "data/source").mkdir(parents=True)
        (root / "data/source/README.md").write_text("Images of one's own.\n")
        (root / ".dvc/config").write_text("[core]\n    analytics = false\n    check_update = false\n")
    project = Project(root)
    project.run("git", "init", "--quiet", "--initial-branch=main")
    project.commit("as it is")
    return project


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    """Whatever a test has started ends with it, also where the test fails."""
    yield
    while STARTED:
        with suppress(ProcessLookupError):
            os.killpg(STARTED[-1].pid, signal.SIGKILL)
        STARTED.pop().wait()


@pytest.fixture
def fresh(reproduced: Project, tmp_path: Path) -> Project:
    """A fresh clone: results in git, but no data, no model, no cache."""
    fresh = Project(tmp_path / "fresh")
    reproduced.run("git", "clone", "--quiet", ".", str(fresh.root))
    fresh.run("git", "remote", "remove", "origin")
    return fresh


@pytest.fixture(scope="session")
def first_repro(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, dict[str, float]]:
    """A project after its first `dvc repro`, committed, and each stage's seconds, DVC's own work included."""
    project = checkout(tmp_path_factory.mktemp("session") / "reproduced")
    running = project.start("dvc", "repro")
    starts = []
    for stage in STAGES:
        running.wait_for(f"Running stage '{stage}'")
        starts.append(time.monotonic())
    assert running.process.wait(timeout=120) == 0, running.output.read_text()
    ends = [*starts[1:], time.monotonic()]
    project.commit("its results")
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
    """A copy, of the test's own, of a project in which everything is up to date."""
    return reproduced.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def shipped(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project of which `make export` has been run. Shared: copy it before changing it."""
    project = reproduced.copy(tmp_path_factory.mktemp("session") / "shipped")
    project.command("export")
    return project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory, but for default parameters and their schema."""
    (tmp_path / "params.yaml").write_text(default_parameters())
    shutil.copy2(ROOT / "params.schema.json", tmp_path / "params.schema.json")
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
