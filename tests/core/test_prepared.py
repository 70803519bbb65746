"""Prepared commands end as those that a user starts."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.conftest import Project, environment
from tests.prepared import venv

PROBE = """
import os, signal, subprocess, sys, warnings
print(sys.argv[1:], len(os.environ.get("LONG", "")), os.path.basename(sys.executable), "torch" in sys.modules)
action = sys.argv[1]
if action == "exit":
    sys.exit(3)
if action == "message":
    sys.exit("a message")
if action == "kill":
    os.kill(os.getpid(), signal.SIGTERM)
if action == "warn":
    warnings.warn("a warning")
if action == "wait":
    child = subprocess.Popen(["sleep", "1000"])
    print("waiting", child.pid, flush=True)
    child.wait()
"""


@pytest.fixture
def probe(tmp_path: Path) -> Project:
    """A folder with a command."""
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands/probe.py").write_text(PROBE)
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("action", "strict", "code", "stderr"),
    [
        ("nothing", True, 0, ""),
        ("exit", False, 3, ""),
        ("message", False, 1, "a message\n"),
        ("kill", False, -signal.SIGTERM, ""),
        ("warn", False, 0, "UserWarning: a warning"),
        ("warn", True, 1, "UserWarning: a warning"),
    ],
)
def test_exit_codes_and_output(probe: Project, action: str, strict: bool, code: int, stderr: str) -> None:
    """Of a command, and of one that another process starts; with an environment larger than one message."""
    options = ("-W", "error") if strict else ()
    command = ("python", *options, "-m", "commands.probe", action)
    variables = environment() | {"PATH": f"{venv() / 'bin'}:{os.environ['PATH']}", "LONG": "x" * 100_000}
    started = subprocess.run(command, cwd=probe.root, env=variables, capture_output=True, text=True)
    prepared = probe.run(*command, fails=code != 0)
    for done, length in ((started, 100_000), (prepared, 0)):
        assert done.returncode == code
        assert done.stdout.splitlines() == [f"['{action}'] {length} python True"]
        assert stderr in done.stderr
        assert bool(stderr) == bool(done.stderr)


def is_running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_killing_a_script_kills_all_processes_of_the_command(probe: Project) -> None:
    command = (str(venv() / "bin/python"), "-m", "commands.probe", "wait")
    running = probe.start(*command)
    running.wait_for("waiting")
    child = int(running.output.read_text().split()[-1])
    assert is_running(child)
    running.process.kill()
    deadline = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
