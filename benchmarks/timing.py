"""Timing side by side: what is compared takes turns, so that whatever slows the machine down slows all of them."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.lib.core.errors import UserError

MOST_LOAD = 0.5  # processes that are running or waiting, over the last minute


@dataclass(frozen=True)
class Measured:
    """Seconds of several rounds."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def spread(self) -> float:
        """Half the range, as a share of the median."""
        return (max(self.rounds) - min(self.rounds)) / 2 / self.median


def refuse_a_loaded_machine() -> None:
    """Wait a minute for the machine to come to rest.

    Raises:
        UserError: it does not.
    """
    for _ in range(12):
        load = os.getloadavg()[0]
        if load <= MOST_LOAD:
            return
        time.sleep(5)
    raise UserError(f"the machine is loaded ({load:.1f} processes on average); stop what else runs, and run it again")


def take_turns(timed: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, Measured]:
    """Run each in turn, `rounds` times; a function gives the seconds that count. A first round is thrown away."""
    found: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds + 1):
        for name, run in timed.items():
            seconds = run()
            if number:
                found[name].append(seconds)
    return {name: Measured(tuple(values)) for name, values in found.items()}


def seconds_of(*command: str, folder: Path) -> float:
    """The time that a command takes.

    Raises:
        UserError: it fails, in its own words.
    """
    started = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return seconds


def per_call(function: Callable[[], object], calls: int) -> Callable[[], float]:
    """A timer of many calls: the seconds of one."""

    def timed() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - started) / calls

    return timed
