"""The command lines: help texts and one-line errors."""

import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, Project

COMMANDS = sorted(path.stem for path in (ROOT / "experiments").glob("*.py") if "__main__" in path.read_text())


def run(folder: Path, command: str, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a command of this working tree in an empty folder."""
    module = f"experiments.{command}"
    return Project(folder).run("python", "-W", "error", "-m", module, *arguments, fails=fails, PYTHONPATH=str(ROOT))


def test_the_commands_are_discovered() -> None:
    assert {"plots", "report", "rotated_digits", "sweep", "table", "verify"} <= set(COMMANDS)


@pytest.mark.parametrize("option", ["-h", "--help"])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_prints_the_module_docstring(tmp_path: Path, command: str, option: str) -> None:
    done = run(tmp_path, command, option)
    docstring = (ROOT / f"experiments/{command}.py").read_text().split('"""')[1]
    assert docstring.strip() in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("module", ["stages.check", "commands.predict"])
def test_help_that_cannot_be_written_is_an_error(tmp_path: Path, module: str) -> None:
    command = ("sh", "-c", f"python -m {module} --help > /dev/full")
    done = Project(tmp_path).run(*command, fails=True, PYTHONPATH=str(ROOT))
    assert done.returncode == 1
    assert done.stderr == f"{module.split('.')[1]}: error: No space left on device; free some space and run it again\n"


@pytest.mark.parametrize("arguments", [["--unknown"], ["one", "two"]])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_usage_error_is_one_line(tmp_path: Path, command: str, arguments: list[str]) -> None:
    done = run(tmp_path, command, *arguments, fails=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"{command}: error: ")
    assert done.stderr.count("\n") == 1
