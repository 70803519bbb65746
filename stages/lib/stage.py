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


class UserError(Exception):
    """What the user can put right. Its text is one line: what, where, what was expected, what to do."""


def run(main: Callable[[], None]) -> NoReturn:
    """Run a stage's `main()` and end the process with the exit code that the module docstring lists."""
    stage = Path(sys.argv[0]).stem
    signal.signal(signal.SIGTERM, _exit_143)
    try:
        main()
    except KeyboardInterrupt:
        print(f"{stage}: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if os.environ.get("PIPELINE_DEBUG"):
            raise
        print(f"{stage}: error: {_one_line(error)}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def _exit_143(_signal: int, _frame: FrameType | None) -> NoReturn:
    sys.exit(143)  # an exception, so that `finally` and `with` still clean up


def _one_line(error: Exception) -> str:
    if isinstance(error, UserError):
        text = str(error)
    elif isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        text = f"{where}{error.strerror}; put that right and run it again"
    else:
        text = f"unexpected {type(error).__name__}: {error} (PIPELINE_DEBUG=1 shows where; please report it)"
    return " ".join(text.split())
