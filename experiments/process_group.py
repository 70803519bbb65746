"""Process groups: a command with all processes that it starts, which end together.

The workers of a cluster run the source of this module, so it imports only the standard library.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

GRACE_PERIOD = 10  # seconds that an interrupted run has to clean up
POLL_INTERVAL = 0.05  # seconds


def end(leaders: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate the groups of processes that were started in their own session, and wait until all have ended."""
    for leader in leaders:
        _send(leader, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_PERIOD
    for leader in leaders:
        while _send(leader, 0):
            leader.poll()  # reap the zombie
            if time.monotonic() > deadline:
                _send(leader, signal.SIGKILL)
                break
            time.sleep(POLL_INTERVAL)


def run_while_stdin_is_open(command: Sequence[str]) -> int:
    """Run a command in its own group, and return its exit code; end the group as soon as stdin is closed.

    A process that is killed cannot end what it has started, but the system closes its end of the pipe.
    """
    leader = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    while leader.poll() is None:
        if select.select([sys.stdin], [], [], POLL_INTERVAL)[0]:  # nothing is ever written to it
            break
    end([leader])  # also what is left of the group if the command itself was killed
    return leader.wait()


def _send(leader: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to a process group, and return whether it has any process left."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, number)
        return True
    return False
