"""One process at a time runs a stage in a folder.

DVC locks its own repository, but it may be killed while the stage that it started still runs.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import STATE, with_file_name

if sys.platform != "win32":
    import fcntl

LAUNCHER = "TORCHRUN"  # options for PyTorch's launcher, if several processes are to run a stage
LAUNCHED = "TORCHELASTIC_RUN_ID"  # set by the launcher in the processes that it starts
DISTRIBUTED = {"train", "evaluate"}  # the stages that several processes can run
UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}  # a file system without locks: DVC's lock has to do


@contextmanager
def exclusive(stage: str) -> Iterator[None]:
    """Hold the lock of a stage until the block ends. On Windows there is no lock.

    The operating system releases the lock when the process ends, and data loader workers do not inherit it.

    Raises:
        UserError: another process holds it.
    """
    starts_launcher = stage in DISTRIBUTED and bool(os.environ.get(LAUNCHER)) and LAUNCHED not in os.environ
    if sys.platform == "win32" or starts_launcher or (LAUNCHED in os.environ and os.environ["RANK"] != "0"):
        yield  # rank 0 holds the lock for all ranks
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
            if error.errno not in UNSUPPORTED:
                raise
            print(
                f"{stage}: this file system has no locks ({reason(error)}); make sure that no other process runs this "
                "stage in this folder",
                file=sys.stderr,
            )
        with with_file_name(Path(file.name)):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield
