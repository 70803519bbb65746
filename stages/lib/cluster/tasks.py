"""Run a function on many tasks, on the workers of a Dask cluster that were started in this folder.

The machines share this folder: workers read and write the same files by the same paths. Each task is checked first: the
worker has to see the folder and the source, and to run the same code.
"""

import hashlib
import os
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.lib.cluster.connection import CLUSTER, connected, result_of
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
            expected = Expected(running, source, code_here())

            # A function inside of another one is sent as code. All others are sent by name, to be imported by the
            # scheduler, too, which may run anywhere.
            def call(pickled: bytes) -> Any:
                import pickle

                function, *arguments = pickle.loads(pickled)
                return function(*arguments)

            def run(function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
                return in_order(
                    lambda task: client.submit(call, pickle.dumps((run_checked, function, task, expected)), pure=False),
                    lambda future: _result(client, future),
                    tasks,
                    AHEAD * sum(client.nthreads().values()),
                )

            yield run
    finally:
        running.unlink(missing_ok=True)


def _result(client: "Client", future: "Future[Any]") -> Any:
    try:
        return result_of(client, future)
    except ModuleNotFoundError as error:
        raise UserError(
            f"{CLUSTER}: a worker does not find the code of this project ({reason(error)}); start it in this folder, "
            "on a file system that the machines share, by `python -m distributed.cli.dask_worker`"
        ) from error


def run_checked(function: Callable[[T], R], task: T, expected: Expected) -> R:
    """Run a task on a worker.

    Raises:
        UserError: the worker does not see the folder or the source, or runs other code.
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
    _prepare_worker()
    return function(task)


@cache
def _prepare_worker() -> None:
    keep_freed_memory()


@cache
def code_here() -> str:
    """Return a hash of the code when it was first needed, which is when this process imports it."""
    digest = hashlib.sha256()
    for path in sorted(CODE.rglob("*.py")):
        content = path.read_bytes()
        digest.update(f"{path.as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _this_worker() -> str:
    from distributed import get_worker

    return f"worker {get_worker().address} in {os.getcwd()}"
