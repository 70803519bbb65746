"""Shared fixtures: copies of the project with real files, the real git and the real dvc.

A copy has the tracked code and every parameter at its default, but no data, cache, DVC remote or results. The tests
therefore pass regardless of the committed results and parameters. Only tests marked `committed` read those.
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
import yaml
from dvc.utils.serialize import load_yaml, modify_yaml

from tests import prepared

ROOT = Path(__file__).resolve().parent.parent
STAGES = ["download", "normalize", "cache", "train", "evaluate"]  # after check
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)
DRIVER = shutil.which("chromedriver")
RUNTIME = ROOT / "demo/node_modules/onnxruntime-web"  # installed by `make test` if npm is available
STARTED: list[subprocess.Popen[bytes]] = []  # processes that the current test started
MEMORY, ROOM = Path("/dev/shm"), 4 << 30  # a file system in memory, and how many bytes have to be free there
# Environment variables of the stages and commands, and variables of the Makefile.
OURS = ("CLUSTER", "DATASET_MIRROR", "DEVICE", "LOADER_WORKERS", "PIPELINE_DEBUG", "TORCHRUN")
MAKE_VARIABLES = ("BASE", "IMAGES", "INVERT", "JOBS", "NAME", "PART", "PLACE", "PRESET", "SEEDS")


def environment() -> dict[str, str]:
    """A user's environment: this Python first in PATH, a git identity, no variables of this project, git, make, AWS.

    None of Python's either: PYTHONDONTWRITEBYTECODE makes each command compile all modules, and PYTHONUNBUFFERED hides
    what becomes of output that cannot be written.
    """
    excluded = ("AWS_", "GIT_", "MAKE", "MFLAGS", "PYTHON")
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(excluded) and name not in OURS + MAKE_VARIABLES
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
    """A running command in a separate process group, with output to a file."""

    process: subprocess.Popen[bytes]
    output: Path

    def wait_for(self, text: str) -> None:
        """Wait up to two minutes until the output contains the text."""
        deadline = time.monotonic() + 120
        while text not in self.output.read_text():
            assert self.process.poll() is None, f"ended without {text!r}:\n{self.output.read_text()}"
            assert time.monotonic() < deadline, f"no {text!r} after two minutes:\n{self.output.read_text()}"
            time.sleep(0.005)

    def send(self, number: int) -> bool:
        """Signal the process group, wait until every process has ended, and return whether the command was running."""
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
        """Run a command in the copy; assert that it succeeds, or with `fails` that it fails."""
        values = environment() | variables
        done = prepared.run(command, self.root, values, variables, timeout=300)
        assert (done.returncode != 0) == fails, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, *command: str, **variables: str) -> Running:
        """Start a command in the copy, in the background."""
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

    def make(self, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
        """Run make, which installs nothing."""
        installed = self.root / ".git/installed"  # where git does not list it
        installed.touch()
        return self.run("make", f"INSTALLED={installed}", f"BIN={Path(sys.executable).parent}", *arguments, fails=fails)

    def repro(self, *arguments: str) -> list[str]:
        """Run `dvc repro` and return the stages that ran, without check, which any change of params.yaml reruns."""
        lines = self.run("dvc", "repro", *arguments).stdout.splitlines()
        stages = [line.split("'")[1] for line in lines if line.startswith("Running stage")]
        return [stage for stage in stages if stage != "check"]

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace text that occurs exactly once in a file."""
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


Count = Callable[[str, int], None]  # adds to a counter in the summary of --torture


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--torture", action="store_true", help="run the long tests: many more interruptions and damaged files"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Put the tests' folders into memory if there is room: their thousands of small files are flushed to disk else."""
    if (
        not config.getoption("torture")
        and MEMORY.is_dir()
        and shutil.disk_usage(MEMORY).free > ROOM
        and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC  # prepared commands are programs there
    ):
        os.environ.setdefault("TMPDIR", str(MEMORY))
        tempfile.tempdir = None  # look at TMPDIR again


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Repeat a test marked `torture(quick=1, long=8)`: once, or 8 times with --torture, numbered by `part`."""
    if mark := metafunc.definition.get_closest_marker("torture"):
        times = mark.kwargs["long" if metafunc.config.getoption("torture") else "quick"]
        metafunc.parametrize("part", range(times))


@pytest.fixture
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether the tests run with --torture."""
    return bool(request.config.getoption("torture"))


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """A function that adds to a counter in the summary."""
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop tests whose requirement is missing (--torture, a GPU, a browser), and run tests of the pipeline last.

    In CI, browser tests are kept and fail if the browser is missing.
    """
    items[:] = [item for item in items if "NOTSET" not in item.name]  # pytest's id of a test with no parameters
    if not config.getoption("torture"):
        marks = {item: item.get_closest_marker("torture") for item in items}  # also of single parameters
        items[:] = [item for item in items if not (mark := marks[item]) or mark.kwargs["quick"]]
    import torch  # not needed by the process that hands the tests to others

    if not torch.cuda.is_available():
        items[:] = [item for item in items if not item.get_closest_marker("gpu")]
    if not (BROWSER and DRIVER and RUNTIME.exists()) and "CI" not in os.environ:
        items[:] = [item for item in items if not item.get_closest_marker("browser")]
    items.sort(key=lambda item: bool({"fresh", "project", "reproduced"} & set(getattr(item, "fixturenames", ()))))


def outs(stage: str) -> list[str]:
    """The paths that a stage writes: its outs, metrics and plots in dvc.yaml."""
    definition = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    entries = [entry for kind in ("outs", "metrics", "plots") for entry in definition.get(kind, [])]
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def artifacts(project: Project) -> dict[str, str]:
    """Path -> md5 of dvc.lock and every file below data/, models/ and reports/, including temporary files."""
    files = [project.root / "dvc.lock"]
    for folder in ("data", "models", "reports"):
        files += (project.root / folder).rglob("*")
    return {
        str(file.relative_to(project.root)): hashlib.md5(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file() and file.name != ".gitignore"
    }


def set_parameters(path: Path, **parameters: object) -> None:
    """Change values in a params.yaml. The new value is one line, even if the old one had several."""
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
    """The clone's params.yaml with every value at its default; DVC writes it if any value differs."""
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
    """The tracked files that exist in the working tree."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in filter(None, listing.split("\0")) if (ROOT / name).is_file()]


def checkout(root: Path, *, results: bool = False) -> Project:
    """Make a git repository with one commit: the code with default parameters, or all tracked files if `results`."""
    source = yaml.safe_load((ROOT / "params.yaml").read_text())["source"]
    excluded = ("params.yaml", "dvc.lock", ".dvc/config", "reports/", "data/source/", f"{source}/")
    for name in tracked_files():
        if results or not (name.startswith(excluded) or name.endswith(".dvc")):
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
def end_started_processes() -> Iterator[None]:
    """Kill the processes that a test started, even if it failed."""
    yield
    while STARTED:
        with STARTED.pop() as process, suppress(ProcessLookupError):  # which waits for it, and closes its pipes
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def fresh(reproduced: Project, tmp_path: Path) -> Project:
    """A fresh clone: the results in git, without data, model or cache."""
    fresh = Project(tmp_path / "fresh")
    reproduced.run("git", "clone", "--quiet", ".", str(fresh.root))
    fresh.run("git", "remote", "remove", "origin")
    return fresh


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after its first `dvc repro`, committed. Shared: copy it before changing it.

    Its processes are those of a user, so that the results of prepared ones are compared with theirs.
    """
    project = checkout(tmp_path_factory.mktemp("session") / "reproduced")
    running = project.start("dvc", "repro")
    assert running.process.wait(timeout=300) == 0, running.output.read_text()
    project.commit("results")
    return project


@pytest.fixture
def project(reproduced: Project, tmp_path: Path) -> Project:
    """A copy of the reproduced project for one test, with everything up to date."""
    return reproduced.copy(tmp_path / "project")


@pytest.fixture(scope="session")
def shipped(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after `make export`. Shared: copy it before changing it."""
    project = reproduced.copy(tmp_path_factory.mktemp("session") / "shipped")
    project.command("export")
    return project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with only params.yaml at its defaults and params.schema.json."""
    (tmp_path / "params.yaml").write_text(default_parameters())
    shutil.copy2(ROOT / "params.schema.json", tmp_path / "params.schema.json")
    for name in OURS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path
