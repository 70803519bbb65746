"""Run a function on many tasks, on the workers of a Dask cluster that were started in this folder.

The machines share this folder: workers read and write the same files by the same paths. Each task is checked first: the
worker has to see the folder and the source, and to run the same code.
"""

import hashlib
import math
import os
import pickle
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.lib.cluster.connection import CLUSTER, PACKAGES, POLL, connected, result_of
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import STATE
from stages.lib.core.memory import keep_freed_memory
from stages.lib.preprocessing.processes import AHEAD, Map, in_order

if TYPE_CHECKING:
    from distributed import Client, Future

CODE = Path("stages")

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Expected:
    """What a worker has to have."""

    running: Path  # exists in this folder while the process that submits the tasks runs
    source: Path | None  # the folder of the original files, if they are in one
    code: str  # of `code_here`
    versions: tuple[tuple[str, str], ...]  # of `versions_here`


@contextmanager
def on_cluster(address: str, source: Path | None) -> Iterator[Map]:
    """Connect to a cluster, and yield a `Map` that its workers run.

    The `Map` raises UserError if the workers are lost, or do not see what this process sees.

    Args:
        address: of the scheduler.
        source: the folder of the original files; None: they are in a bucket.

    Raises:
        UserError: the cluster cannot be used.
    """
    STATE.mkdir(exist_ok=True)
    for left_behind in STATE.glob("running-*"):  # by a process that was killed
        left_behind.unlink()
    running = STATE / f"running-{uuid.uuid4().hex}"
    running.touch()
    try:
        with connected(address) as client:
            expected = Expected(running, source, code_here(), versions_here())

            # A function inside of another one is sent as code. All others are sent by name, to be imported by the
            # scheduler, too, which may run anywhere.
            def call(pickled: bytes) -> Any:
                import pickle

                function, *arguments = pickle.loads(pickled)
                return function(*arguments)

            def submit(task: tuple[Callable[[T], R], T]) -> "Future[Any]":
                # The task is pickled by itself: only a worker with the same code can unpickle it.
                return client.submit(call, pickle.dumps((run_checked, pickle.dumps(task), expected)), pure=False)

            def run(function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
                return in_order(
                    submit,
                    lambda future: _result(client, future),
                    ((function, task) for task in tasks),
                    _AtATime(client),
                )

            yield run
    finally:
        running.unlink(missing_ok=True)


class _AtATime:
    """How many tasks to submit before the first of them has ended: some for each thread of the cluster as it is now."""

    def __init__(self, client: "Client") -> None:
        self.client = client
        self.number = 0
        self.asked = -math.inf

    def __call__(self) -> int:
        if time.monotonic() > self.asked + POLL:  # workers come and go
            self.number = AHEAD * max(1, sum(self.client.nthreads().values()))
            self.asked = time.monotonic()
        return self.number


def _result(client: "Client", future: "Future[Any]") -> Any:
    try:
        return result_of(client, future)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{CLUSTER}: a worker does not find the code of this project ({reason(error)}); start it in this folder, "
            "on a file system that the machines share, by `python -m distributed.cli.dask_worker`"
        ) from error


def run_checked(pickled: bytes, expected: Expected) -> Any:
    """Run a task on a worker, which may have come after `connected` has compared the versions.

    Args:
        pickled: a function and its argument.
        expected: what the worker has to have.

    Raises:
        UserError: the worker does not see the folder or the source, or runs other code or versions.
        Exception: what the function raises.
    """
    if not expected.running.exists():
        raise UserError(
            f"{CLUSTER}: {_this_worker()} does not see the folder of this project; start it there, on a file system "
            "that the machines share"
        )
    if expected.source and not expected.source.exists():
        raise UserError(f"{CLUSTER}: {_this_worker()} does not see {expected.source}; mount it there by the same path")
    if code_here() != expected.code:
        raise UserError(f"{CLUSTER}: {_this_worker()} was started with other code in {CODE}; start it again")
    for (name, here), (_, there) in zip(versions_here(), expected.versions, strict=True):
        if here != there:
            raise UserError(
                f"{CLUSTER}: {_this_worker()} has {name} {here}, expected {there}; install requirements.lock there"
            )
    keep_freed_memory()
    function, task = pickle.loads(pickled)
    try:
        return function(task)
    except UserError as error:
        raise UserError(f"{error} ({_this_worker()})") from error


@cache
def code_here() -> str:
    """Return a hash of the code as it is when this process runs its first task, and imports what the task needs."""
    digest = hashlib.sha256()
    for path in sorted(CODE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@cache
def versions_here() -> tuple[tuple[str, str], ...]:
    """Return the versions of Python and of the packages that matter."""
    found = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return tuple(found.items())


def _this_worker() -> str:
    from distributed import get_worker

    return f"worker {get_worker().address} in {os.getcwd()}"
