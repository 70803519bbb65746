"""How a stage ends: the frame around every stage's `main()`.

    done                      exit 0
    something to put right    one line on stderr, exit 1 (`UserError`, or the operating system's own complaint)
    interrupted               exit 130 (SIGINT) or 143 (SIGTERM): never 0, which DVC would record as done

`PIPELINE_DEBUG=1` in the environment shows the traceback behind the one line.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pydantic import ValidationError


class UserError(Exception):
    """What the user can put right. Its text is one line: what, where, what was expected, what to do."""


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main()` and end the process with the exit code that the module docstring lists."""
    stage = Path(sys.argv[0]).stem
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise SystemExit(128 + number)  # an exception, so that `finally` and `with` still clean up

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        main()
    except SystemExit:
        print(f"{stage}: interrupted", file=sys.stderr)
        raise
    except Exception as error:
        if received:  # what a library makes of the signal, such as a loader process that it ended too
            print(f"{stage}: interrupted", file=sys.stderr)
            sys.exit(128 + received[0])
        if os.environ.get("PIPELINE_DEBUG"):
            raise
        print(f"{stage}: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def reason(error: Exception) -> str:
    """Why, in a few words on one line, for a `UserError` that says what to do about it."""
    if isinstance(error, ValidationError):
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
    if isinstance(error, MemoryError):
        return f"not enough memory ({reason(error)}); choose smaller images or a smaller network"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{reason(error)}; put that right and run it again"
    return f"unexpected {type(error).__name__}: {reason(error)} (PIPELINE_DEBUG=1 shows where; please report it)"
