"""Timing side by side: the functions to compare run alternately, so that a slow moment affects all of them."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.lib.core.errors import UserError

MAX_LOAD = 0.5  # running and waiting processes, the average of the last minute


@dataclass(frozen=True)
class Timing:
    """The seconds of several rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the range, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.median


def wait_until_idle() -> None:
    """Wait up to a minute until the machine is idle.

    Raises:
        UserError: other processes keep running.
    """
    for _ in range(12):
        load = os.getloadavg()[0]
        if load <= MAX_LOAD:
            return
        time.sleep(5)
    raise UserError(f"the machine is busy ({load:.1f} processes on average); stop other processes and run this again")


def time_alternately(timed: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Timing]:
    """Run the functions one after the other, `rounds` times after a warm-up round; each returns its seconds."""
    measured: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name, run in timed.items():
            seconds = run()
            if number:
                measured[name].append(seconds)
    return {name: Timing(tuple(values)) for name, values in measured.items()}


def seconds_of(*command: str, folder: Path) -> float:
    """Run a command and return its seconds.

    Raises:
        UserError: the command fails, with its message.
    """
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return seconds


def per_call(function: Callable[[], object], calls: int) -> Callable[[], float]:
    """Return a function that times many calls and returns the seconds of one."""

    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - started) / calls

    return seconds
