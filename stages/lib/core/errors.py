"""Errors that the user can fix, and any error in one line."""

import errno
import re
from collections.abc import Sequence

DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # disk full, quota exceeded, file larger than the limit
SHOWN = 5  # names in a message
OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory")  # torch raises a RuntimeError with these words


class UserError(Exception):
    """An error that the user can fix. Its text is one line: what, where, what was expected, what to do."""


def reason(error: Exception) -> str:
    """Return the cause of an error in a few words on one line, as part of the text of a `UserError`."""
    if hasattr(error, "errors"):  # pydantic's ValidationError, without importing pydantic
        first = error.errors(include_url=False)[0]
        text = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror
    else:
        text = str(error) or type(error).__name__
    return " ".join(text.split())


def some(names: Sequence[str]) -> str:
    """Return the first names of a list, and the number of the others."""
    others = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + others


def one_line(error: Exception) -> str:
    """Return the line that the user sees when an error ends a command."""
    if isinstance(error, UserError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
        return f"not enough memory ({reason(error)}); choose a smaller batch_size, network or image_size"
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        remedy = "free some space" if error.errno in DISK_FULL else "fix that"
        return f"{where}{reason(error)}; {remedy} and run it again"
    return f"unexpected {type(error).__name__}: {reason(error)} (PIPELINE_DEBUG=1 shows where; please report it)"
