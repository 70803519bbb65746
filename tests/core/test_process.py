"""How a command ends: exit codes, exit functions, signals, garbage collection."""

import errno
import gc
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from stages.lib.core import lock
from tests.conftest import ROOT, environment

# A command of the namespace package `experiments`, so that `run` treats it as one of this project.
COMMAND = """
from stages.lib.core.process import defer_signals, run

import atexit, gc, os, signal, sys
from stages.lib.core.errors import UserError

{}

if __name__ == "__main__":
    run(main)
"""


@pytest.fixture
def command(tmp_path: Path) -> Path:
    (tmp_path / "experiments").mkdir()
    return tmp_path / "experiments/probe.py"


def start(command: Path, text: str) -> subprocess.Popen[str]:
    """Start a command with this text, which defines `main`."""
    command.write_text(COMMAND.format(text))
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.probe"],
        cwd=command.parent.parent,
        env=environment() | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the end and return exit code, stdout and stderr."""
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


@pytest.mark.parametrize(
    ("main", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("raise UserError('a: wrong')", 1, "probe: error: a: wrong\n"),
        ("open('missing')", 1, "probe: error: missing: No such file or directory; fix that and run it again\n"),
        ("sys.exit(3)", 3, ""),
    ],
)
def test_exit_functions_run_whatever_the_exit_code(command: Path, main: str, code: int, stderr: str) -> None:
    """`_exit` calls a private function of `atexit`, because it skips the rest of Python's finalization."""
    text = f"atexit.register(print, 'first registered')\natexit.register(print, 'last registered')\ndef main(): {main}"
    assert finished(start(command, text)) == (code, "last registered\nfirst registered\n", stderr)


def test_an_unexpected_error_is_one_line_that_asks_for_a_report(command: Path) -> None:
    code, _, stderr = finished(start(command, "def main(): raise KeyError('x')"))
    assert code == 1
    assert stderr == "probe: error: unexpected KeyError: 'x' (PIPELINE_DEBUG=1 shows where; please report it)\n"


def test_garbage_collection_is_off_during_the_imports_only(command: Path) -> None:
    text = "print(gc.isenabled())\ndef main(): print(gc.isenabled(), gc.get_freeze_count() > 1000)"
    assert finished(start(command, text)) == (0, "False\nTrue True\n", "")


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("when", ["while it imports", "in main"])
def test_signals_end_a_command_with_their_exit_code(command: Path, sent: int, code: int, when: str) -> None:
    wait = "print('waiting'); signal.pause()"
    process = start(command, f"{wait}\ndef main(): pass" if when == "while it imports" else f"def main(): {wait}")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(sent)
    assert finished(process)[0] == code


def test_a_signal_is_deferred_until_the_block_has_finished(command: Path) -> None:
    text = """
def main():
    with defer_signals():
        os.kill(os.getpid(), signal.SIGINT)
        print("finished")
    print("not reached")
"""
    assert finished(start(command, text)) == (130, "finished\n", "probe: interrupted\n")


def test_importing_the_module_from_another_program_changes_nothing() -> None:
    """This test imports it, and has Python's signal handlers and garbage collection."""
    from stages.lib.core import process

    assert process._stop not in (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert gc.isenabled()


def test_a_file_system_without_locks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcntl.lockf", refuse)
    with lock.exclusive("train"):
        pass
    assert capsys.readouterr().err == (
        "train: this file system has no locks (No locks available); make sure that no other process runs this stage in "
        "this folder\n"
    )
