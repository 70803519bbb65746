"""Hand a command over to the server of tests.prepared, as its scripts `python` and `dvc` do.

This runs at the start of every such command, so it imports little.
"""

import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

MODULES = ("commands.", "dvc", "experiments.", "stages.")  # those that are handed over
# No vector instructions of PyTorch's own, and MKL's kernels for any processor. Read when the libraries are imported.
SIMPLEST = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}


class Request(NamedTuple):
    """A command to run."""

    module: str
    arguments: list[str]
    strict: bool  # whether warnings are errors
    unbuffered: bool
    folder: str
    variables: dict[str, str]


def request(command: Sequence[str], folder: str, variables: dict[str, str]) -> Request | None:
    """Describe `dvc ...` or `python [-u] [-W error] -m MODULE ...`; None: another command, which nobody takes over."""
    first, *rest = command
    options = set()
    if os.path.basename(first) == "dvc":
        rest = ["-m", "dvc", *rest]
    while rest[:1] == ["-u"] or rest[:2] == ["-W", "error"]:
        options.add(rest[0])
        rest = rest[1 if rest[0] == "-u" else 2 :]
    if rest[:1] != ["-m"] or not rest[1:] or not rest[1].startswith(MODULES):
        return None
    unbuffered = "-u" in options or bool(variables.get("PYTHONUNBUFFERED"))
    return Request(rest[1], rest[2:], "-W" in options, unbuffered, folder, variables)


def hand_over(path: str, wanted: Request, streams: Sequence[int], timeout: float | None = None) -> int:
    """Have the server at the socket `path` run a command with these standard streams, and return its exit code.

    Raises:
        TimeoutError: it takes longer than `timeout` seconds; it has been killed.
        ConnectionError: the server has ended.
    """
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(path)
        socket.send_fds(server, [b"\0"], streams)
        server.sendall(repr(tuple(wanted)).encode() + b"\n")
        server.settimeout(timeout)
        if not (answer := server.recv(16)):
            raise ConnectionError(f"the server at {path} has ended")
        return int(answer)


def main(python: str, path: str, early: dict[str, str]) -> NoReturn:
    """Hand this command over, or become it if the server does not run it or has other values of SIMPLEST.

    Args:
        python: the real one.
        path: of the server's socket.
        early: the values that the server has.
    """
    wanted = request(sys.argv, os.getcwd(), dict(os.environ))
    if wanted and early == {name: os.environ[name] for name in SIMPLEST if name in os.environ} and _has_streams():
        code = hand_over(path, wanted, (0, 1, 2))
        if code < 0:
            if -code != signal.SIGKILL:
                signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        sys.exit(code)
    module = ["-m", "dvc"] if os.path.basename(sys.argv[0]) == "dvc" else []
    os.execv(python, [python, *module, *sys.argv[1:]])


def _has_streams() -> bool:
    """Whether no standard stream is closed."""
    try:
        return bool([os.fstat(number) for number in (0, 1, 2)])
    except OSError:
        return False
