"""Commands as real processes that begin with the libraries imported, which otherwise takes most of their time.

A server imports the libraries once and forks a process for each command. The process does what `python -m MODULE` does,
with the folder, environment, standard streams and filter of warnings of that command, in a new session. No module of
this project is imported before. Hash seed, locale and time zone are those with which the server was started.
Scripts named `python` and `dvc`, first in the PATH of these commands, hand over what they start in turn: the stages of
`dvc repro`, the ranks of a training, the commands of make. If a signal ends a script, the server kills the command and
all processes that it has started; no other signal reaches them. Commands that a test starts in the background, to
interrupt them, are therefore started as users start them.
"""

import ast
import atexit
import gc
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

from tests.handover import SIMPLEST, Request, hand_over, request

ROOT = Path(__file__).resolve().parent.parent
LIBRARIES = """
    dvc.cli dvc.cli.parser dvc.repo dvc.repo.experiments dvc.repo.reproduce dvc.repo.plots dvc.repo.metrics.show
    dvc.stage.loader dvc.parsing fastjsonschema jinja2 numpy pandas PIL.Image pydantic ruamel.yaml safetensors.torch
    scipy.stats torch torch.distributed.run torchvision tqdm
"""
# Variables that neither Python nor a library reads when it starts. A command with any other starts afresh.
LATER = {
    *("AWS_ACCESS_KEY_ID", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY", "CLUSTER"),
    *("DATASET_MIRROR", "DEVICE", "LOADER_WORKERS", "OMP_NUM_THREADS", "PIPELINE_DEBUG", "PYTHONPATH", "TORCHRUN"),
}
SOCKET = "s"  # short: the path of a socket may have about 100 characters
READY = 60  # seconds
# The first lines are those of pip: a path with a space cannot be in a first line.
SCRIPT = """#!/bin/sh
'''exec' "{python}" -IS "$0" "$@"
' '''
import sys
sys.path.insert(0, {root!r})
from tests.handover import main
main({python!r}, {path!r}, {early!r})
"""


def run(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], added: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Do what `subprocess.run` does with captured output and text.

    Args:
        command: of any kind; only those that tests.handover knows are prepared.
        folder: the working directory.
        variables: the environment.
        added: the variables of it that this command has and others do not.
        timeout: seconds.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    known = command[0] in ("dvc", "python", sys.executable) and added.keys() <= LATER | SIMPLEST.keys()
    if not known or not request(command, str(folder), {}):
        return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=timeout)
    here = venv(**{name: added[name] for name in SIMPLEST if name in added})
    path = os.pathsep.join([str(here / "bin"), variables["PATH"]])
    wanted = request(command, str(folder), {**variables, "PATH": path})
    assert wanted is not None
    with (
        open(os.devnull, "rb") as nothing,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):
        try:
            code = hand_over(str(here / SOCKET), wanted, [each.fileno() for each in (nothing, out, err)], timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(command, timeout) from None
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        return subprocess.CompletedProcess(command, code, *texts)


@cache
def venv(**early: str) -> Path:
    """Start a server, and return a virtual environment in which `python` and `dvc` hand over to it.

    There is one server for each set of values of the variables in SIMPLEST. To hand over only what a process starts,
    not the process itself: `subprocess.Popen([venv() / "bin/python", ...], executable=sys.executable)`.
    """
    folder = Path(tempfile.mkdtemp(prefix="venv-"))
    early = {name: os.environ[name] for name in SIMPLEST if name in os.environ} | early
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.prepared", str(folder)],
        cwd=ROOT,
        env=inherited | early,
        stdin=subprocess.PIPE,  # closed when this process ends, however it ends; then the server ends, too
        # A pipe: Python decides at its start whether stdout can seek, and the stdout of a command may be a pipe.
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    atexit.register(server.wait)
    atexit.register(server.stdin.close)
    for name in ("lib", "pyvenv.cfg"):
        (folder / name).symlink_to(Path(sys.prefix) / name)
    (folder / "bin").mkdir()
    for program in Path(sys.executable).parent.iterdir():
        if program.name not in ("python", "dvc"):
            (folder / "bin" / program.name).symlink_to(program)
    text = SCRIPT.format(root=str(ROOT), python=sys.executable, path=str(folder / SOCKET), early=early)
    for name in ("python", "dvc"):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o700)
    deadline = time.monotonic() + READY
    while not (folder / SOCKET).exists():
        assert server.poll() is None, server.stdout.read()
        assert time.monotonic() < deadline, f"no server after {READY} seconds"
        time.sleep(0.01)
    return folder


def serve(folder: Path) -> None:
    """Import the libraries; then, for each connection to a socket, run a command with the streams of the other side.

    The answer is the exit code. If the other side closes the connection before, the command is killed. Ends when stdin
    is closed, with all commands, and removes the folder.
    """
    filters = import_libraries()
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    killed: set[int] = set()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "new"))
        server.listen(16)
        os.rename(folder / "new", folder / SOCKET)  # from now on it answers
        while True:
            watched: list[Any] = [connection for child, connection in running.items() if child not in killed]
            ready = select.select([0, woken, server, *watched], [], [])[0]
            if 0 in ready:
                break
            for child in [child for child, connection in running.items() if connection in ready]:
                kill(child)
                killed.add(child)
            if woken in ready:
                woken.recv(4096)
                while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    killed.discard(ended[0])
                    with running.pop(ended[0]) as connection, suppress(OSError):
                        connection.sendall(str(os.waitstatus_to_exitcode(ended[1])).encode())
            if server in ready:
                connection, _ = server.accept()
                _, streams, _, _ = socket.recv_fds(connection, 1, 3)
                with connection.makefile("rb") as lines:
                    wanted = Request(*ast.literal_eval(lines.readline().decode()))
                child = os.fork()
                if not child:
                    os.setsid()
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    for each in (woken, wake, server, connection, *running.values()):
                        each.close()
                    start(filters, str(folder / "bin/python"), wanted, streams)
                running[child] = connection
                for stream in streams:
                    os.close(stream)
    for child in running:
        kill(child)
    shutil.rmtree(folder)


def kill(child: int) -> None:
    """Kill a command and what it has started in its session."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:  # it has not begun its session
        os.kill(child, signal.SIGKILL)


def import_libraries() -> int:
    """Import the libraries, and return how many filters of warnings they have added in front of the others."""
    defaults = len(warnings.filters)
    for name in LIBRARIES.split():
        import_module(name)
    assert threading.active_count() == 1, "a process with several threads must not be forked"
    # At the end of a process torch unloads its operators and lists its compilations, in 45 ms; no command needs that.
    atexit.unregister(sys.modules["torch._dynamo.utils"].dump_compile_times)
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    gc.collect()
    gc.freeze()
    return len(warnings.filters) - defaults


def start(filters: int, python: str, wanted: Request, streams: Sequence[int]) -> NoReturn:
    """Do what `python -m MODULE` does, and end the process."""
    variables = wanted.variables
    code: Any = 0
    try:
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        os.chdir(wanted.folder)
        os.environ.clear()
        os.environ.update(variables)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        for text in (sys.stdout, sys.stderr):
            # Libraries hold these streams already.
            text.reconfigure(encoding="utf-8", write_through=wanted.unbuffered)  # type: ignore[union-attr]
        sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in variables
        sys.executable = python  # with which libraries start processes
        if "OMP_NUM_THREADS" in variables:
            sys.modules["torch"].set_num_threads(int(variables["OMP_NUM_THREADS"]))
        extra = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:] = [wanted.folder, *extra, *(path for path in sys.path if path not in ("", str(ROOT)))]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        sys.argv = [wanted.module, *wanted.arguments]
        if wanted.strict:  # where `-W error` is: after the filters of the libraries
            warnings.filters[filters:filters] = [("error", None, Warning, None, 0)]  # type: ignore[index]
        gc.unfreeze()
        runpy.run_module(wanted.module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 120  # as Python does
    os._exit(code or 0)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
