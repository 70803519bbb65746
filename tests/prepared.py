"""Commands as real processes that begin with the libraries imported, which otherwise takes most of their time.

A server imports the libraries once and forks a process for each command, which does what `python -m MODULE` does: its
own folder, environment, standard streams, warnings, exit code. None of this project's modules is imported before.
Scripts named `python` and `dvc`, first in the PATH of these commands, hand over what they start in turn: the stages of
`dvc repro`, the ranks of a training. Commands that a test starts in the background, to interrupt them, are started as
users start them.
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

LIBRARIES = """
    dvc.cli dvc.cli.parser dvc.repo dvc.repo.experiments dvc.repo.reproduce dvc.repo.plots dvc.repo.metrics.show
    dvc.stage.loader dvc.parsing fastjsonschema jinja2 numpy pandas PIL.Image pydantic ruamel.yaml safetensors.torch
    scipy.stats torch torch.distributed.run torchvision tqdm
"""
# Variables that a library reads when it is imported, with the values for the instructions that every processor has.
SIMPLEST = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
MODULES = ("commands.", "dvc", "experiments.", "stages.")  # those that are handed over

Request = tuple[str, list[str], bool, str, dict[str, str]]  # module, arguments, strict, folder, environment


def module_of(command: Sequence[str]) -> tuple[str, list[str], bool] | None:
    """Return module, arguments and whether warnings are errors, of `dvc ...` and of `python [-W error] -m ...`."""
    first, *rest = command
    if first == "dvc":
        return "dvc", rest, False
    if first not in ("python", sys.executable):
        return None
    strict = rest[:2] == ["-W", "error"]
    rest = rest[2:] if strict else rest
    return (rest[1], rest[2:], strict) if rest[:1] == ["-m"] and rest[1].startswith(MODULES) else None


def run(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command that `module_of` knows, as `subprocess.run` does with captured output."""
    known = module_of(command)
    assert known is not None
    here = venv(**{name: variables[name] for name in SIMPLEST if name in variables})
    path = os.pathsep.join([str(here / "bin"), variables["PATH"]])
    request: Request = (*known, str(folder), {**variables, "PATH": path})
    with (
        socket.socket(socket.AF_UNIX) as server,
        open(os.devnull, "rb") as nothing,
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):
        server.connect(str(here / SOCKET))
        socket.send_fds(server, [repr(request).encode()], [each.fileno() for each in (nothing, out, err)])
        server.settimeout(timeout)
        try:
            code = int(server.recv(16))
        except TimeoutError:
            raise subprocess.TimeoutExpired(command, timeout) from None
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read())
        return subprocess.CompletedProcess(command, code, *texts)


SOCKET = "socket"
SCRIPT = """#!{python} -IS
import os, sys
name, *arguments = sys.argv
module, rest, strict = "dvc", arguments, False
if name.endswith("/python"):
    while rest[:1] == ["-u"] or rest[:2] == ["-W", "error"]:
        strict = strict or rest[0] == "-W"
        rest = rest[1 + (rest[0] == "-W"):]
    module, rest = (rest[1], rest[2:]) if rest[:1] == ["-m"] else ("", [])
if module.startswith({modules}) and {early} == [os.environ.get(name) for name in {names}]:
    import socket
    with socket.socket(socket.AF_UNIX) as server:
        server.connect({path})
        socket.send_fds(server, [repr((module, rest, strict, os.getcwd(), dict(os.environ))).encode()], [0, 1, 2])
        code = int(server.recv(16))
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)
command = [{python!r}, *([] if name.endswith("/python") else ["-m", "dvc"]), *arguments]
os.execv({python!r}, command)
"""


@cache
def venv(**early: str) -> Path:
    """Start a server, and return a virtual environment with this one's packages, whose `python` and `dvc` it serves.

    Each set of values of the variables in SIMPLEST has a server of its own.
    A process whose `sys.executable` is its `python` begins with `subprocess.Popen([venv() / "bin/python", ...],
    executable=sys.executable)`.
    """
    folder = Path(tempfile.mkdtemp(prefix="venv-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / SOCKET
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.prepared", str(path)],
        cwd=Path(__file__).resolve().parent.parent,
        env={**os.environ, **early},
        # Streams that cannot seek: those of a command that can would else be expected to.
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    atexit.register(server.terminate)
    for name in ("lib", "pyvenv.cfg"):
        (folder / name).symlink_to(Path(sys.prefix) / name)
    (folder / "bin").mkdir()
    for program in Path(sys.executable).parent.iterdir():
        if program.name not in ("python", "dvc"):
            (folder / "bin" / program.name).symlink_to(program)
    names = list(SIMPLEST)
    values = [early.get(name, os.environ.get(name)) for name in names]
    text = SCRIPT.format(python=sys.executable, modules=MODULES, early=values, names=names, path=repr(str(path)))
    for name in ("python", "dvc"):
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o700)
    while not path.exists():
        assert server.poll() is None, server.stdout and server.stdout.read()
        time.sleep(0.01)
    return folder


def serve(path: str) -> None:
    """Import the libraries; then, for each connection to a socket, run a command with the streams of the other side.

    The answer is the exit code. If the other side closes the connection before, the command is killed.
    """
    filters = import_libraries()
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    running: dict[int, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen(16)
        while True:
            ready = select.select([woken, server, *running.values()], [], [])[0]
            for child in [child for child, connection in running.items() if connection in ready]:
                os.kill(child, signal.SIGKILL)
            if woken in ready:
                woken.recv(4096)
                while running and (ended := os.waitpid(-1, os.WNOHANG))[0]:
                    with running.pop(ended[0]) as connection, suppress(OSError):
                        connection.sendall(str(os.waitstatus_to_exitcode(ended[1])).encode())
            if server in ready:
                connection, _ = server.accept()
                request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                child = os.fork()
                if not child:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    start(
                        filters,
                        str(Path(path).with_name("bin") / "python"),
                        ast.literal_eval(request.decode()),
                        streams,
                    )
                running[child] = connection
                for stream in streams:
                    os.close(stream)


def import_libraries() -> int:
    """Import the libraries, and return how many filters of warnings they have added in front of the others."""
    defaults = len(warnings.filters)
    for name in LIBRARIES.split():
        import_module(name)
    assert threading.active_count() == 1, "a process with several threads must not be forked"
    # What torch does when a process ends takes longer than a short command, and serves only a process that goes on.
    atexit.unregister(sys.modules["torch._dynamo.utils"].dump_compile_times)
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False
    gc.collect()
    gc.freeze()
    return len(warnings.filters) - defaults


def start(filters: int, python: str, request: Request, streams: Sequence[int]) -> NoReturn:
    """Do what `python -m MODULE` does, and end the process."""
    module, arguments, strict, folder, variables = request
    code: Any = 0
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        for text in (sys.stdout, sys.stderr):
            text.reconfigure(encoding="utf-8")  # type: ignore[union-attr]  # libraries hold these streams already
        sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in variables
        sys.executable = python  # with which libraries start processes
        if "OMP_NUM_THREADS" in variables:
            sys.modules["torch"].set_num_threads(int(variables["OMP_NUM_THREADS"]))
        own = str(Path(__file__).resolve().parent.parent)
        extra = filter(None, variables.get("PYTHONPATH", "").split(os.pathsep))
        sys.path[:] = [folder, *extra, *(path for path in sys.path if path not in ("", own))]
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        sys.argv = [module, *arguments]
        if strict:  # where `-W error` is: after the filters of the libraries
            warnings.filters[filters:filters] = [("error", None, Warning, None, 0)]  # type: ignore[index]
        gc.unfreeze()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)


if __name__ == "__main__":
    serve(sys.argv[1])
