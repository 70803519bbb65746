"""How a stage ends: the frame around every stage's `main()`.

    done                      exit 0
    something to put right    one line on stderr, exit 1 (`UserError`, or the operating system's own complaint)
    interrupted               exit 130 (SIGINT) or 143 (SIGTERM): never 0, which DVC would record as done
    nobody reads what it      exit 141 (SIGPIPE) without a word, as `head` and others leave the programs before them in
    prints                    a pipe: not 0, because the work may not be done

A stage imports this module before all others, so that an interruption while torch loads ends it in the same way.
`PIPELINE_DEBUG=1` in the environment shows the traceback behind the one line.
"""

import atexit
import errno
import gc
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from io import TextIOWrapper
from pathlib import Path
from types import FrameType
from typing import NoReturn

from stages.lib.files import named

if sys.platform != "win32":
    import fcntl

LAUNCHER = "TORCHRUN"  # holds options for PyTorch's launcher, if several processes are to do a stage's work
LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by the launcher in the processes that it starts
SHARED = {"train", "evaluate"}  # stages that several processes can do
STATE = Path(".state")  # what a run leaves for the next one, outside of git's and DVC's sight
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk full, quota used up, file larger than the limit
OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory")  # torch's words, in a RuntimeError
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # a file system without locks: DVC's own has to do

_received: list[int] = []
_held = False


class UserError(Exception):
    """What the user can put right. Its text is one line: what, where, what was expected, what to do."""


def run(main: Callable[[], None], *, alone: bool = True, arguments: bool = False) -> NoReturn:
    """Run a stage's `main()` and end the process with the exit code that the module docstring lists.

    Args:
        main: the stage.
        alone: whether it writes to the folder, where a second one at the same time has to be kept out.
        arguments: whether it takes any on its command line.
    """
    gc.freeze()  # what the imports left is there to stay
    gc.enable()
    code = 0
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    try:
        if isinstance(sys.stdout, TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # of names that this terminal cannot show
        if sys.argv[1:] and not arguments and _started_as_ours():
            if sys.argv[1:] in (["-h"], ["--help"]):
                print((sys.modules["__main__"].__doc__ or "").strip())
                sys.exit()
            raise UserError(f"found `{' '.join(sys.argv[1:])}`, expected no arguments; --help tells what it does")
        with _alone(_stage()) if alone else nullcontext():
            main()
        sys.stdout.flush()
    except SystemExit as stop:
        code = int(stop.code or 0)
        with suppress(OSError):
            sys.stdout.flush()
    except Exception as error:
        code = 1
        if isinstance(error, BrokenPipeError) and _output_closed():
            code = 128 + signal.SIGPIPE
        elif _received:  # what a library makes of the signal, such as a loader process that it ended too
            code = 128 + _received[0]
        elif os.environ.get("PIPELINE_DEBUG"):
            raise
        else:
            print(f"{_stage()}: error: {_one_line(error)}", file=sys.stderr, flush=True)
    _end(code)  # not before the exception is gone, and with it what it holds: processes that load ahead end with it


def _output_closed() -> bool:
    """Whether stdout or stderr is a pipe whose reader has ended: a broken pipe to another process is a fault."""
    if sys.platform == "win32":
        return False  # it reports a closed pipe as another error
    watched = select.poll()
    for descriptor in (1, 2):
        watched.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in watched.poll(0))


def _end(code: int) -> NoReturn:
    """What Python would do at the end but for taking torch's modules apart piece by piece, a third of a second long."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    atexit._run_exitfuncs()
    os._exit(code)


@contextmanager
def signals_held() -> Iterator[None]:
    """What stands in the block is done wholly: a signal ends the process behind it.

    A second one ends it at once, without any clean-up that might take half of the block for the whole.
    """
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False
    if _received:
        raise SystemExit(128 + _received[0])


def reason(error: Exception) -> str:
    """Why, in a few words on one line, for a `UserError` that says what to do about it."""
    if hasattr(error, "errors"):  # pydantic's, which not every stage has to import
        first = error.errors(include_url=False)[0]
        text = f"{'.'.join(map(str, first['loc']))} {first['msg']}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def _one_line(error: Exception) -> str:
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return f"not enough memory ({reason(error)}); choose a smaller batch_size, network or image_size"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        remedy = "make room" if error.errno in NO_ROOM else "put that right"
        return f"{where}{reason(error)}; {remedy} and run it again"
    return f"unexpected {type(error).__name__}: {reason(error)} (PIPELINE_DEBUG=1 shows where; please report it)"


@contextmanager
def _alone(stage: str) -> Iterator[None]:
    """Keep a second run of the stage out of this folder: DVC does for its own, but may be killed before its stage is.

    The system itself ends the lock with the process, and a loader process does not inherit it.

    Raises:
        UserError: another process is at it.
    """
    launches = stage in SHARED and LAUNCHER in os.environ and LAUNCHED not in os.environ
    if sys.platform == "win32" or launches or (LAUNCHED in os.environ and os.environ["RANK"] != "0"):
        yield  # the first of several processes, on whichever machine, holds it for all
        return
    STATE.mkdir(exist_ok=True)
    with (STATE / f"{stage}.lock").open("ab+", buffering=0) as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            process = file.read().decode(errors="replace")
            raise UserError(
                f"{file.name}: process {process} runs this stage in this folder; wait for it, or end it"
            ) from error
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
        with named(Path(file.name)):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def _stage() -> str:
    return Path(sys.argv[0]).stem


def _stop(number: int, _frame: FrameType | None) -> None:
    _received.append(number)
    # Not print(), which the signal may have come in the middle of; and the terminal may be gone.
    with suppress(OSError):
        os.write(2, f"{_stage()}: interrupted\n".encode())
    if not _held:
        raise SystemExit(128 + number)  # an exception, so that `finally` and `with` still clean up
    if len(_received) > 1:
        os._exit(128 + number)


def _started_as_ours() -> bool:
    """Whether this process was started as a stage or another command here, and not by a program that imports one."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return started is not None and started.name.startswith(("stages.", "experiments."))


def _begin() -> None:
    """What the frame does first."""
    if _started_as_ours():
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, _stop)
        gc.disable()  # looking for rubbish among what is being imported takes a fifth of the time of `import torch`


_begin()
