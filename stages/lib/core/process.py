"""How a command ends: the frame around the `main()` of every stage and command.

    success                 exit 0
    an error to fix         one line on stderr, exit 1 (`UserError`, or an error of the operating system)
    interrupted             exit 130 (SIGINT) or 143 (SIGTERM): never 0, which DVC would record as done
    stdout is closed        exit 141 (SIGPIPE) without a message, as when `head` closes the pipe

A stage imports this module before any other: importing it installs the signal handlers, so that an interruption while
torch loads ends the process the same way. `PIPELINE_DEBUG=1` in the environment shows the traceback of an error.
"""

import atexit
import gc
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn

from stages.lib.core.errors import UserError, one_line
from stages.lib.core.lock import exclusive
from stages.lib.core.memory import keep_freed_memory

_received: list[int] = []  # signals, in the order in which they came
_deferring = False


def run(main: Callable[[], None], *, lock: bool = True, arguments: bool = False) -> NoReturn:
    """Run `main()` and end the process with the exit code that the module docstring lists.

    Args:
        main: the stage or command.
        lock: whether it writes to this folder, so that a second run at the same time has to be refused.
        arguments: whether it takes arguments on its command line.
    """
    gc.freeze()  # the imported modules are never garbage: do not scan them again
    gc.enable()
    keep_freed_memory()
    code = 0
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the parent process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # file names that this terminal cannot show
        if sys.argv[1:] and not arguments and _is_own_command():
            if sys.argv[1:] in (["-h"], ["--help"]):
                print((sys.modules["__main__"].__doc__ or "").strip())
                sys.exit()
            raise UserError(f"found `{' '.join(sys.argv[1:])}`, expected no arguments; --help describes the command")
        with exclusive(_command()) if lock else nullcontext():
            main()
        sys.stdout.flush()
    except SystemExit as stop:
        code = int(stop.code or 0)
        try:
            sys.stdout.flush()
        except OSError as error:
            code = code or _report(error)
    except Exception as error:
        if _received:  # a library turned the signal into an error, for example because it also ended a worker
            code = 128 + _received[0]
        elif os.environ.get("PIPELINE_DEBUG"):
            raise
        else:
            code = _report(error)
    _exit(code)  # outside of `except`: the exception holds frames, and with them data loader workers


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defer SIGINT and SIGTERM until the block has finished.

    A second signal ends the process at once, without any cleanup that could mistake half of the block for all of it.
    """
    global _deferring
    _deferring = True
    try:
        yield
    finally:
        _deferring = False
    if _received:
        raise SystemExit(128 + _received[0])


def _report(error: Exception) -> int:
    """Print an error in one line, unless it is that nobody reads the output; return the exit code."""
    if isinstance(error, BrokenPipeError) and _output_closed():
        return 128 + signal.SIGPIPE
    print(f"{_command()}: error: {one_line(error)}", file=sys.stderr, flush=True)
    return 1


def _output_closed() -> bool:
    """Whether stdout or stderr is a pipe without a reader: a broken pipe to another process is an error."""
    if sys.platform == "win32":
        return False  # Windows reports a closed pipe as another error
    watched = select.poll()
    for descriptor in (1, 2):
        watched.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in watched.poll(0))


def _exit(code: int) -> NoReturn:
    """End the process without Python's finalization, which takes a third of a second once torch is imported.

    The functions registered with `atexit` run as usual. `atexit._run_exitfuncs` is private: a test checks that it is
    there and that they do run.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    os._exit(code)


def _command() -> str:
    return Path(sys.argv[0]).stem


def _stop(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    # os.write, because print() is not reentrant; and the terminal may be gone.
    with suppress(OSError):
        os.write(2, f"{_command()}: interrupted\n".encode())
    if not _deferring:
        raise SystemExit(128 + number)  # an exception, so that `finally` and `with` still clean up
    if len(_received) > 1:
        os._exit(128 + number)


def _is_own_command() -> bool:
    """Whether this process was started as a stage or command of this project, not by a program that imports one."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return started is not None and started.name.startswith(("stages.", "commands.", "experiments."))


if _is_own_command():
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, _stop)
    gc.disable()  # until `run`: collecting garbage during `import torch` takes a fifth of its time
