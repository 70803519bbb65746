"""Run experiments, several at a time, each in a clone of this folder."""

from stages.lib.core.process import defer_signals

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.clone import Snapshot, clone
from experiments.grid import Combination, applied
from experiments.layout import assignments
from experiments.results import differing, scores_of
from experiments.shell import output
from experiments.tracked import METRICS, SUMMARY
from stages.lib.core.errors import UserError
from stages.lib.core.files import STATE
from stages.lib.core.parameters import PARAMETERS, read

FOLDER = STATE / "sweep"
CLONES = "clones-"
GRACE_PERIOD = 10  # seconds that an interrupted run has to clean up
POLL_INTERVAL = 0.05  # seconds
STAGE_ERROR = re.compile(r"^\w+: error: .+", re.MULTILINE)
DVC_ERROR = re.compile(r"^ERROR: .+", re.MULTILINE)
NAME = re.compile(r"^Ran experiment\(s\): (.+)$", re.MULTILINE)  # `dvc exp run` prints it after a success


@dataclass(frozen=True)
class Experiment:
    """A successful experiment."""

    name: str
    scores: Mapping[str, float]


@dataclass(frozen=True)
class _Run:
    """A running experiment."""

    number: int
    clone: Path
    log: Path
    process: subprocess.Popen[bytes]
    start: float  # seconds, monotonic


def run_all(
    name: str, waiting: Mapping[int, Combination], parameters: Mapping[str, object], base: Snapshot, jobs: int
) -> Generator[tuple[int, float, Experiment | UserError], None, None]:
    """Run combinations, `jobs` at a time; as each ends, yield its number, its seconds and its experiment or error.

    Closing the generator ends the running experiments and keeps the finished ones.

    Args:
        name: prefix of the names of the logs.
        waiting: combinations by number.
        parameters: the values that the combinations override.
        base: the code and the files that the experiments start from.
        jobs: at least 1.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    for clones_of_killed_sweep in FOLDER.glob(f"{CLONES}*"):
        shutil.rmtree(clones_of_killed_sweep, ignore_errors=True)
    log_name = re.sub(r"[^\w.-]", "_", name)
    todo = list(waiting.items())
    running: list[_Run] = []
    with tempfile.TemporaryDirectory(prefix=CLONES, dir=FOLDER.resolve(), ignore_cleanup_errors=True) as clones:
        try:
            while todo or running:
                while todo and len(running) < jobs:
                    number, combination = todo.pop(0)
                    folder = Path(clones) / str(number)
                    clone(base, folder)
                    log = FOLDER / f"{log_name}-{number}.log"
                    with defer_signals():
                        running.append(_Run(number, folder, log, _start(combination, folder, log), time.monotonic()))
                time.sleep(POLL_INTERVAL)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    seconds = time.monotonic() - each.start
                    yield each.number, seconds, _outcome(each, applied(waiting[each.number], parameters), base)
                    shutil.rmtree(each.clone, ignore_errors=True)
        finally:
            _end([each.process for each in running])


def _start(combination: Combination, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    settings = [
        part for key, value in combination.items() for part in ("-S", f"{key}={json.dumps(value, ensure_ascii=False)}")
    ]
    with log.open("wb") as file:
        return subprocess.Popen(
            ["dvc", "exp", "run", *settings],
            cwd=folder,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # so that the log is current
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _outcome(ended: _Run, wanted: Mapping[str, object], base: Snapshot) -> Experiment | UserError:
    """Fetch the experiment from its clone, or return the error in its log."""
    text = ended.log.read_text(encoding="utf-8", errors="replace")
    names = NAME.findall(text)
    if ended.process.returncode or not names:
        errors = STAGE_ERROR.findall(text) or DVC_ERROR.findall(text) or [f"exit code {ended.process.returncode}"]
        return UserError(f"{errors[0]}; log: {ended.log}")
    try:
        if other := differing(read(ended.clone / PARAMETERS), wanted):
            raise UserError(f"DVC set other values: {' '.join(assignments(other))}")
        ref = f"{base.refs}/{names[-1]}"
        output("git", "fetch", "--quiet", str(ended.clone), f"{ref}:{ref}")
    except UserError as error:
        return UserError(f"{error}; log: {ended.log}")
    summary, metrics = (json.loads((ended.clone / path).read_text(encoding="utf-8")) for path in (SUMMARY, METRICS))
    return Experiment(names[-1], scores_of(summary, metrics))


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate the process groups, and wait until they have ended."""
    for process in processes:
        _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_PERIOD
    for process in processes:
        while _signal_group(process, 0):
            process.poll()  # reap the zombie
            if time.monotonic() > deadline:
                _signal_group(process, signal.SIGKILL)
                break
            time.sleep(POLL_INTERVAL)


def _signal_group(leader: subprocess.Popen[bytes], number: int) -> bool:
    """Send a signal to a process group, and return whether it has any process left."""
    with suppress(ProcessLookupError):
        os.killpg(leader.pid, number)
        return True
    return False
