"""Compare normalize on this machine with normalize on the workers of a Dask cluster that runs on it, too.

The photographs are JPEG files, decoded and resized; the arrays are written as they are. Scheduler, workers and the
stage share the processors of this machine, so this measures what the engine costs, not what many machines gain.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import yaml

from benchmarks.images import write_arrays, write_photographs
from benchmarks.timing import Timing, time_alternately

PHOTOGRAPHS, ARRAYS, SIZE, ROUNDS = 8000, 20_000, 224, 3
# `python -c` has the folder that it is started in first in its path, and so have the workers.
CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1, dashboard_address=None)
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


def measure(project: Path) -> str:
    """Return a table in Markdown.

    Args:
        project: a clone of this one; its data are overwritten.
    """
    rows = ["| images | normalize by | seconds | images/s |", "|---|---|--:|--:|"]
    for kind, number in (("photographs", PHOTOGRAPHS), ("arrays", ARRAYS)):
        for name, timing in compare(project, kind, number).items():
            rows.append(f"| {number:,} {kind} | {name} | {timing.median:.1f} | {number / timing.median:,.0f} |")
    return "\n".join(rows)


def compare(project: Path, kind: str, number: int) -> dict[str, Timing]:
    """Time normalize without a cluster, and with one and two workers, alternately."""
    source = project / kind
    if kind == "photographs":
        for label in "ab":
            source.mkdir(exist_ok=True)
            write_photographs(source / label, number // 2)
    else:
        write_arrays(source, number, (SIZE, SIZE, 3))
    path = project / "params.yaml"
    values = yaml.safe_load(path.read_text()) | {
        "dataset": "folder" if kind == "photographs" else "arrays",
        "source": kind,
        "image_size": SIZE,
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    subprocess.run([sys.executable, "-m", "stages.download"], cwd=project, check=True, stdout=subprocess.DEVNULL)
    with started(project, 1) as one, started(project, 2) as two:
        timed = {"this machine's processes": "", "a cluster of one worker": one, "a cluster of two workers": two}
        timings = time_alternately(
            {name: partial(seconds, project, address) for name, address in timed.items()}, ROUNDS
        )
    shutil.rmtree(source)
    return timings


@contextmanager
def started(project: Path, workers: int) -> Iterator[str]:
    """Start a cluster in a folder, and yield its address."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER, str(workers)],
        cwd=project,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.terminate()


def seconds(project: Path, address: str) -> float:
    """Return the seconds of normalize."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "stages.normalize"],
        cwd=project,
        env=os.environ | {"CLUSTER": address},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun
