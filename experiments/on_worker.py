"""What a worker of a Dask cluster does for one experiment.

    the snapshot, packed -> a clone -> dvc exp run -> dvc push -> the experiment as a git bundle

Data and models go through the DVC remote. The worker needs git and the packages of requirements.lock, but no clone of
this project: its functions are sent there with the experiment. So this module imports only the standard library, and
Dask inside a task. A task changes nothing but its clone, a cache, and files in the remote whose names are their
checksums, so that Dask can run it again when its worker is lost.
"""

import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from distributed import Worker

COMMIT = "refs/snapshot/commit"  # the commit that the experiment starts from
TREE = "refs/snapshot/tree"  # a commit with the uncommitted changes
CACHE = "../cache"  # of all experiments of one worker, from a clone
POLL_INTERVAL = 0.2  # seconds
NAME = re.compile(r"^Ran experiment\(s\): (.+)$", re.MULTILINE)  # `dvc exp run` prints it after a success
# The stages must not wait for a cluster whose threads run experiments. Dask sets the others to 1, for libraries in its
# own process; a run in a user's shell does not have them.
UNSET = ("CLUSTER", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Job(TypedDict):
    """An experiment to run. Plain types, because a worker does not have this module."""

    settings: list[str]  # options of `dvc exp run`
    folders: list[str]  # outputs of which stages read only parts
    snapshot: str  # checksum of the archive
    refs: str  # below which DVC puts the experiment
    variables: dict[str, str]  # additions to the environment
    remote_folder: str  # the DVC remote if it is a folder, or ""
    supervisor: str  # a script: runs a command until its stdin is closed


class Ended(TypedDict):
    """An experiment that has ended."""

    problem: str  # why the worker could not run it, or ""
    code: int  # of the last command
    log: str
    name: str  # of the experiment, or "" if it failed
    bundle: bytes
    seconds: float


def run_experiment(archive: bytes, job: "Job") -> "Ended":
    """Run an experiment in a temporary clone; a Dask task.

    Args:
        archive: tar of a git repository with COMMIT and TREE, and of DVC's local settings.
        job: the experiment.

    Raises:
        distributed.Reschedule: the result is no longer wanted, or the worker closes. All processes have ended.
    """
    from distributed import get_worker

    start = time.monotonic()
    worker = get_worker()
    ended: Ended = {"problem": "", "code": 0, "log": "", "name": "", "bundle": b"", "seconds": 0.0}
    if missing := _missing(job["remote_folder"]):
        ended["problem"] = f"worker {worker.address}: {missing}"
        return ended
    home = Path(worker.local_directory) / "experiments"
    home.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as name,
        tempfile.TemporaryFile(dir=home) as log,
    ):
        clone = Path(name)
        _unpack(archive, clone)
        # `dvc exp run --pull` fetches the parts of a folder as stages need them. If a run ends early, the next one does
        # not fetch the other parts: DVC finds the first ones in the cache, and takes the folder for complete.
        fetched = home / f"fetched-{job['snapshot']}"
        if job["folders"] and not fetched.exists():
            ended["code"] = _run_dvc(["fetch", *job["folders"]], clone, job, worker, log)
            if not ended["code"]:
                fetched.touch()
        for arguments in (["exp", "run", "--pull", "--allow-missing", *job["settings"]], ["push"]):
            if not ended["code"]:
                ended["code"] = _run_dvc(arguments, clone, job, worker, log)
        log.seek(0)
        ended["log"] = log.read().decode(errors="replace")
        names = NAME.findall(ended["log"])
        if names and not ended["code"]:
            ended["name"], ref = names[-1], f"{job['refs']}/{names[-1]}"
            ended["bundle"] = _git(clone, "bundle", "create", "--quiet", "-", ref, f"^{COMMIT}")
    ended["seconds"] = time.monotonic() - start
    return ended


def _missing(remote_folder: str) -> str:
    """What this machine lacks, in a few words; "" if nothing."""
    if not shutil.which("git"):
        return "git is not installed there"
    if not importlib.util.find_spec("dvc"):
        return "dvc is not installed there, expected the packages of requirements.lock"
    if remote_folder and not Path(remote_folder).is_dir():
        return (
            f"the DVC remote {remote_folder} does not exist there, expected a folder that all machines share by the "
            "same path, or a bucket (docs/sharing.md)"
        )
    return ""


def _unpack(archive: bytes, clone: Path) -> None:
    """Make the clone: the commit is checked out, with the uncommitted changes in the working tree."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(clone, filter="data")
    _git(clone, "checkout", "--quiet", "--detach", COMMIT)
    _git(clone, "restore", "--source", TREE, "--staged", "--worktree", ".")


def _run_dvc(arguments: list[str], clone: Path, job: "Job", worker: "Worker", log: IO[bytes]) -> int:
    """Run DVC in the clone and return its exit code.

    Raises:
        distributed.Reschedule: the result is no longer wanted, or the worker closes.
    """
    from distributed import Reschedule

    variables = {name: value for name, value in os.environ.items() if name not in UNSET}
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    variables["PYTHONUNBUFFERED"] = "1"
    variables["DVC_SITE_CACHE_DIR"] = str(clone / ".dvc/tmp/site")  # removed with the clone
    with subprocess.Popen(
        [sys.executable, "-I", "-c", job["supervisor"], sys.executable, "-m", "dvc", *arguments],
        cwd=clone,
        env=variables | job["variables"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:  # the end of the block closes stdin, and waits
        while process.poll() is None:
            if not _is_wanted(worker, worker.get_current_task()):
                raise Reschedule
            time.sleep(POLL_INTERVAL)
    return process.returncode


def _is_wanted(worker: "Worker", task: Any) -> bool:
    """Return whether the result of a task is still wanted, and whether the worker stays.

    Dask does not interrupt the thread of a task. When a task is cancelled or its client is gone, Dask changes only the
    state that the worker keeps of it (https://distributed.dask.org/en/stable/worker-state.html).
    """
    state = worker.state.tasks.get(task)
    wanted = state is not None and state.state in ("executing", "long-running")
    return wanted and worker.status.name not in ("closing", "closed", "failed")


def _git(clone: Path, *arguments: str) -> bytes:
    """Run git and return its output.

    Raises:
        RuntimeError: it fails, with its message.
    """
    done = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
