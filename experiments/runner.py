"""Run experiments, several at a time, each in a clone of this folder."""

from stages.lib.core.process import defer_signals

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.clone import Snapshot, clone
from experiments.grid import Combination, applied, settings_of
from experiments.on_worker import NAME
from experiments.outcome import FOLDER, Experiment, error_in, fetch, log_of
from experiments.process_group import POLL_INTERVAL, end
from stages.lib.core.errors import UserError

CLONES = "clones-"


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
    todo = list(waiting.items())
    running: list[_Run] = []
    with tempfile.TemporaryDirectory(prefix=CLONES, dir=FOLDER.resolve(), ignore_cleanup_errors=True) as clones:
        try:
            while todo or running:
                while todo and len(running) < jobs:
                    number, combination = todo.pop(0)
                    folder = Path(clones) / str(number)
                    clone(base, folder)
                    log = log_of(name, number)
                    with defer_signals():
                        running.append(_Run(number, folder, log, _start(combination, folder, log), time.monotonic()))
                time.sleep(POLL_INTERVAL)
                for each in [each for each in running if each.process.poll() is not None]:
                    running.remove(each)
                    seconds = time.monotonic() - each.start
                    yield each.number, seconds, _outcome(each, applied(waiting[each.number], parameters), base)
                    shutil.rmtree(each.clone, ignore_errors=True)
        finally:
            end([each.process for each in running])


def _start(combination: Combination, folder: Path, log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            ["dvc", "exp", "run", *settings_of(combination)],
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
    try:
        if ended.process.returncode or not names:
            raise UserError(error_in(text, ended.process.returncode))
        return fetch(ended.clone, names[-1], wanted, base)
    except UserError as error:
        return UserError(f"{error}; log: {ended.log}")
