"""A Dask cluster of real processes on this machine: a scheduler and workers, each in a process group of its own.

    with cluster(tmp_path / "cluster", workers=2) as running:
        project.run("python", "-m", "experiments.sweep", "quick", CLUSTER=running.address)
        running.workers[0].kill()

They listen on 127.0.0.1 only, at ports that the system chooses, and keep all files below the given folder. Without
`cwd` they also work there, where no module of this project can be imported.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from tests.conftest import environment

READY = 60  # seconds
IDLE = "1h"  # after which a scheduler ends that a killed test run has left, and its workers with it
HOST = "127.0.0.1"


@dataclass
class Process:
    """A process of the cluster, with its output in a file."""

    process: subprocess.Popen[bytes]
    log: Path
    folder: Path  # where a worker keeps its files

    @classmethod
    def start(
        cls, python: str, module: str, *arguments: str, folder: Path, cwd: Path | None, variables: Mapping[str, str]
    ) -> "Process":
        """Start `python -m distributed.cli.MODULE`, whose `sys.executable` is `python`, with a new folder."""
        folder.mkdir(parents=True)
        log = folder.with_suffix(".log")
        with log.open("wb") as file:
            process = subprocess.Popen(
                [python, "-m", f"distributed.cli.{module}", *arguments],
                executable=sys.executable,
                cwd=cwd or folder,
                env=environment() | {"DASK_TEMPORARY_DIRECTORY": str(folder)} | dict(variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return cls(process, log, folder)

    def wait_for(self, text: str) -> None:
        """Wait until the log contains the text."""
        deadline = time.monotonic() + READY
        while text not in self.log.read_text():
            assert self.process.poll() is None, f"ended without {text!r}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"no {text!r} after {READY} seconds:\n{self.log.read_text()}"
            time.sleep(0.01)

    def send(self, number: int) -> None:
        """Send a signal to the process group, without waiting: SIGSTOP, SIGCONT, SIGTERM."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill the process group and wait until the process has ended."""
        self.send(signal.SIGKILL)
        self.process.wait(timeout=READY)


@dataclass
class Cluster:
    """A running cluster."""

    address: str  # of the scheduler, for CLUSTER
    scheduler: Process
    workers: list[Process]
    folder: Path
    cwd: Path | None
    variables: dict[str, str]
    python: str
    threads: int
    protocol: str

    def add_workers(self, count: int) -> list[Process]:
        """Start more workers, wait until the scheduler knows them, and return them."""
        numbers = range(len(self.workers), len(self.workers) + count)
        folders = {f"worker-{number}": self.folder / f"worker-{number}" for number in numbers}
        started = [
            Process.start(
                self.python,
                "dask_worker",
                self.address,
                *("--host", HOST, "--protocol", self.protocol, "--no-dashboard", "--no-nanny"),
                *("--nthreads", str(self.threads), "--name", name, "--local-directory", str(folder)),
                folder=folder,
                cwd=self.cwd,
                variables=self.variables,
            )
            for name, folder in folders.items()
        ]
        self.workers += started
        for worker in started:
            worker.wait_for("Registered to:")
        return started


@contextmanager
def cluster(
    folder: Path,
    *,
    workers: int = 2,
    threads: int = 1,
    cwd: Path | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
    python: str = sys.executable,
    protocol: str = "tcp",
) -> Iterator[Cluster]:
    """Start a scheduler and workers, wait until all are ready, and kill them when the block ends.

    Args:
        folder: a new folder for all files of the cluster.
        workers: how many processes compute.
        threads: how many tasks each of them computes at a time.
        cwd: the working directory of all processes; None: each has a new one.
        variables: additions to their environment.
        python: with which the workers start processes.
        protocol: tcp, or tls, with certificates that the variables name.
    """
    file = folder / "scheduler.json"
    scheduler = Process.start(
        sys.executable,
        "dask_scheduler",
        *("--host", HOST, "--port", "0", "--protocol", protocol, "--no-dashboard", "--dashboard-address", f"{HOST}:0"),
        *("--scheduler-file", str(file), "--idle-timeout", IDLE),
        folder=folder / "scheduler",
        cwd=cwd,
        variables=variables,
    )
    running = Cluster("", scheduler, [], folder, cwd, dict(variables), python, threads, protocol)
    try:
        running.address = _address(scheduler, file)
        running.add_workers(workers)
        yield running
    finally:
        for process in [*running.workers, scheduler]:
            process.kill()


def _address(scheduler: Process, file: Path) -> str:
    """Wait until the scheduler has written its address."""
    deadline = time.monotonic() + READY
    while True:
        with suppress(FileNotFoundError, json.JSONDecodeError):  # the scheduler writes it in place
            return str(json.loads(file.read_text())["address"])
        assert scheduler.process.poll() is None, scheduler.log.read_text()
        assert time.monotonic() < deadline, scheduler.log.read_text()
        time.sleep(0.01)
