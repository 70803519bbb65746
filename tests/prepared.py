"""Commands as real processes that begin with the libraries imported, which otherwise takes most of their time.

A server imports the libraries once and forks a process for each command, which does what `python -m MODULE` does: its
own folder, environment, standard streams, warnings, exit code. None of this project's modules is imported before.
Tests through `dvc`, make and pipes start the stages and commands as users do.
"""

import atexit
import gc
import json
import os
import runpy
import select
import subprocess
import sys
import tempfile
import threading
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
# Libraries read no others of these when they are imported; a command with any other variable starts afresh.
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
        request = [*known, str(folder), dict(variables), str(out), str(err)]
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


def serve() -> None:
    """Import the libraries; then, for each line of stdin, run a command and print its exit code."""
    defaults = len(warnings.filters)
    for name in LIBRARIES.split():
        import_module(name)
    before_defaults = len(warnings.filters) - defaults  # filters that libraries have added in front
    assert threading.active_count() == 1, "a process with several threads must not be forked"
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            start(before_defaults, *json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def start(
    filters: int,
    module: str,
    arguments: list[str],
    strict: bool,
    folder: str,
    variables: dict[str, str],
    out: str,
    err: str,
) -> NoReturn:
    """Do what `python -m MODULE` does, and end the process."""
    code: Any = 0
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(variables)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        for number, name, path in ((1, "stdout", out), (2, "stderr", err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
            getattr(sys, name).reconfigure(encoding="utf-8")  # libraries hold these streams already
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
    serve()
