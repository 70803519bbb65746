"""Tasks on all processors."""

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.conftest import ROOT, environment

SCRIPT = """
import os, sys, time
from pathlib import Path
from stages.lib.preprocessing.processes import all_processors

def task(number):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

with all_processors() as run:
    list(run(task, range(64)))
"""


def is_running(process: int) -> bool:
    """Return whether there is such a process that has not ended, whether or not somebody has waited for it."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT, env=environment())
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < (os.cpu_count() or 1):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = [int(path.name) for path in tmp_path.iterdir()]
    parent.kill()
    parent.wait()
    while any(map(is_running, children)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [int(path.name) for path in tmp_path.iterdir()] == children, "and begin no other task"
