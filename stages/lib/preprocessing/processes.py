"""Run a function on many tasks, on all processors of this machine."""

import ctypes
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children
from signal import SIG_IGN, SIGINT, SIGTERM, signal
from typing import Protocol, TypeVar

from stages.lib.core.errors import UserError

PR_SET_PDEATHSIG = 1  # of prctl.h
AHEAD = 4  # tasks for each process: what is submitted takes memory, and is not begun if there is an error

F = TypeVar("F")
T = TypeVar("T")
R = TypeVar("R")


class Map(Protocol):
    """Applies a function to tasks, as `map` does; both are sent to other processes."""

    def __call__(self, function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]: ...


@contextmanager
def all_processors() -> Iterator[Map]:
    """Yield a `Map` that has as many processes as there are processors. They are forked when they are first needed.

    The `Map` raises UserError if a process was killed.
    """
    number = os.cpu_count() or 1
    processes = ProcessPoolExecutor(number, initializer=_start_worker)

    def run(function: Callable[[T], R], tasks: Iterable[T], /) -> Iterator[R]:
        try:
            yield from in_order(
                lambda task: processes.submit(function, task), Future[R].result, tasks, lambda: AHEAD * number
            )
        except BrokenProcessPool as error:
            raise UserError("a process that reads images was killed, perhaps out of memory; run it again") from error

    try:
        yield run
    except BaseException:  # an error, or the user's interruption: do not wait for what is running
        for process in active_children():
            process.kill()
        raise
    finally:
        processes.shutdown(cancel_futures=True)


def in_order(
    submit: Callable[[T], F], result: Callable[[F], R], tasks: Iterable[T], ahead: Callable[[], int]
) -> Iterator[R]:
    """Submit tasks, and yield their results in the order of the tasks; at most `ahead()` are submitted at a time."""
    submitted: deque[F] = deque()
    for task in tasks:
        submitted.append(submit(task))
        while len(submitted) >= ahead():
            yield result(submitted.popleft())
    while submitted:
        yield result(submitted.popleft())


def _start_worker() -> None:
    """Ignore SIGINT and SIGTERM, which the parent process handles, end with it, use one thread, and close stderr."""
    if sys.platform == "linux":  # a parent that is killed would leave it waiting for ever
        from signal import SIGKILL  # which Windows lacks

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders write remarks there
    for number in (SIGINT, SIGTERM):
        signal(number, SIG_IGN)
