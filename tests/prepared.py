"""Commands as real processes that begin with the libraries imported, which otherwise takes most of their time.

A server imports the libraries once and forks a process for each command, which does what `python -m MODULE` does: its
own folder, environment, standard streams, warnings, exit code. None of this project's modules is imported before.
A second server does the same for the stages that `dvc` runs in these commands: a script named `python`, first in PATH,
hands them over. Commands that a test starts in the background, to interrupt them, and those of make are started as
users start them.
"""

import ast
import atexit
import gc
import json
import os
import runpy
import select
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = """
    dvc.cli dvc.cli.parser dvc.repo dvc.repo.experiments dvc.repo.reproduce dvc.repo.plots dvc.repo.metrics.show
    dvc.stage.loader dvc.parsing fastjsonschema jinja2 numpy pandas PIL.Image pydantic ruamel.yaml safetensors.torch
    scipy.stats torch torchvision tqdm
"""
# Variables that libraries read when they are imported, or that start processes; and those that they do not read. A
# command with any other variable starts afresh.
EARLY = {"ATEN_CPU_CAPABILITY", "DEVICE", "MKL_CBWR", "OMP_NUM_THREADS", "TORCHRUN"}
LATER = {"DATASET_MIRROR", "DVC_STAGE", "LOADER_WORKERS", "PIPELINE_DEBUG", "PYTHONPATH"}


def module_of(command: Sequence[str]) -> tuple[str, list[str], bool] | None:
    """Return module, arguments and whether warnings are errors, of `dvc ...` and of `python [-W error] -m ...`."""
    first, *rest = command
    if first == "dvc":
        return "dvc", rest, False
    if first not in ("python", sys.executable):
        return None
    strict = rest[:2] == ["-W", "error"]
    rest = rest[2:] if strict else rest
    return (rest[1], rest[2:], strict) if rest[:1] == ["-m"] and rest[1] != "torch.distributed.run" else None


def run(
    command: Sequence[str], folder: Path, variables: Mapping[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command that `module_of` knows, as `subprocess.run` does with captured output."""
    known = module_of(command)
    assert known is not None
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    with tempfile.TemporaryDirectory() as streams:
        out, err = Path(streams) / "out", Path(streams) / "err"
        search = os.pathsep.join([str(_stages()), variables["PATH"]])
        request = [*known, str(folder), {**variables, "PATH": search}, str(out), str(err)]
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        if not select.select([server.stdout], [], [], timeout)[0]:
            server.kill()
            _server.cache_clear()
            raise subprocess.TimeoutExpired(command, timeout)
        code = int(server.stdout.readline())
        return subprocess.CompletedProcess(command, code, *(path.read_text(encoding="utf-8") for path in (out, err)))


@cache
def _server() -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "tests.prepared"],
        cwd=Path(__file__).resolve().parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


SHIM = """#!{python} -IS
import os, sys
arguments = sys.argv[1:]
if len(arguments) == 2 and arguments[1].startswith("stages.") and not {early} & os.environ.keys():
    import socket
    with socket.socket(socket.AF_UNIX) as server:
        server.connect({path})
        socket.send_fds(server, [repr((arguments[1], os.getcwd(), dict(os.environ))).encode()], [0, 1, 2])
        code = int(server.recv(16))
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)
os.execv({python!r}, [{python!r}, *arguments])
"""


@cache
def _stages() -> Path:
    """Start the server of the stages, and return the folder of the script that hands them over."""
    folder = Path(tempfile.mkdtemp(prefix="stages-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.prepared", str(path)], cwd=Path(__file__).resolve().parent.parent
    )
    atexit.register(server.terminate)
    while not path.exists():
        assert server.poll() is None
        time.sleep(0.01)
    script = folder / "python"
    script.write_text(SHIM.format(python=sys.executable, early=EARLY, path=repr(str(path))))
    script.chmod(0o700)
    return folder


def serve_stages(path: str) -> None:
    """Import the libraries; then, for each connection to a socket, run a stage with the streams of the other side."""
    with socket.socket(socket.AF_UNIX) as server:
        filters = import_libraries()
        server.bind(path)
        server.listen(16)
        while True:
            connection, _ = server.accept()
            with connection:
                request, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
                child = os.fork()
                if not child:
                    module, folder, variables = ast.literal_eval(request.decode())
                    start(filters, module, [], False, folder, variables, *streams)
                for stream in streams:
                    os.close(stream)
                connection.sendall(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])).encode())


def serve() -> None:
    """Import the libraries; then, for each line of stdin, run a command and print its exit code."""
    filters = import_libraries()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            *request, out, err = json.loads(line)
            streams = [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for path in (out, err)]
            start(filters, *request, os.open(os.devnull, os.O_RDONLY), *streams)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def import_libraries() -> int:
    """Import the libraries, and return how many filters of warnings they have added in front of the others."""
    defaults = len(warnings.filters)
    for name in LIBRARIES.split():
        import_module(name)
    assert threading.active_count() == 1, "a process with several threads must not be forked"
    gc.collect()
    gc.freeze()
    return len(warnings.filters) - defaults


def start(
    filters: int,
    module: str,
    arguments: list[str],
    strict: bool,
    folder: str,
    variables: dict[str, str],
    *streams: int,
) -> NoReturn:
    """Do what `python -m MODULE` does, and end the process."""
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
    serve_stages(sys.argv[1]) if sys.argv[1:] else serve()
