"""Run experiments on the workers of a Dask cluster, which need not share a file system with this machine.

The snapshot goes to the workers through Dask, and each experiment comes back as a git bundle: they need no git remote.
Data and models go through the DVC remote.
"""

import hashlib
import os
import sys
import tempfile
import uuid
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import on_worker, process_group
from experiments.archive import pack
from experiments.clone import Snapshot
from experiments.grid import Combination, applied, settings_of
from experiments.on_worker import Ended, Job
from experiments.outcome import FOLDER, Experiment, error_in, fetch, log_of
from experiments.remote import folders_read_in_parts, push, shared_remote
from stages.lib.cluster.connection import POLL, connected, result_of, wait_for_workers
from stages.lib.core.errors import UserError, one_line

if TYPE_CHECKING:
    from distributed import Client, Future

# Variables for the stages, which a worker otherwise takes from its own environment.
FORWARDED = ("DATASET_MIRROR", "DEVICE", "LOADER_WORKERS", "PIPELINE_DEBUG", "TORCHRUN")


def run_on_cluster(
    address: str, name: str, waiting: Mapping[int, Combination], parameters: Mapping[str, object], base: Snapshot
) -> Generator[tuple[int, float, Experiment | UserError], None, None]:
    """Run combinations, as many at a time as the workers have threads, as `experiments.runner.run_all` does.

    Raises:
        UserError: there is no DVC remote, or it cannot be used, or the scheduler or all workers are lost.
    """
    if not waiting:
        return
    _, url = shared_remote()
    FOLDER.mkdir(parents=True, exist_ok=True)
    with connected(address) as client:
        push()
        archive = pack(base)
        checksum = hashlib.sha256(archive).hexdigest()
        folders = folders_read_in_parts(base)
        sweep = uuid.uuid4().hex
        warnings.filterwarnings("ignore", "Sending large graph")  # it is sent once
        # The result of a task, because Dask computes it again if all workers that have it are lost.
        snapshot = client.submit(bytes, archive, key=f"snapshot-{checksum}")
        pending: dict[Future[Any], int] = {}
        for number, combination in waiting.items():
            job: Job = {
                "settings": settings_of(combination),
                "folders": folders,
                "snapshot": checksum,
                "refs": base.refs,
                "variables": {key: os.environ[key] for key in FORWARDED if key in os.environ},
                "remote_folder": "" if "://" in url else url,
                "supervisor": SUPERVISOR,
            }
            key = f"experiment-{number}-{sweep}"
            pending[client.submit(by_value(on_worker.run_experiment), snapshot, job, key=key, pure=False)] = number
        while pending:
            for future in _ended(client, list(pending), address):
                number = pending.pop(future)
                wanted = applied(waiting[number], parameters)
                yield number, *_outcome(client, future, log_of(name, number), wanted, base)


def by_value(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an object that is unpickled as the function, on machines that do not have its module.

    cloudpickle's registry alone does not do that: Dask pickles a task by reference if it can.
    """
    import cloudpickle  # type: ignore[import-untyped]

    cloudpickle.register_pickle_by_value(sys.modules[function.__module__])
    return _ByValue(cloudpickle.loads, cloudpickle.dumps(function))


class _ByValue:
    def __init__(self, loads: Callable[[bytes], Any], pickled: bytes) -> None:
        self.reduced = loads, (pickled,)

    def __reduce__(self) -> tuple[Callable[[bytes], Any], tuple[bytes]]:
        return self.reduced

    def __call__(self, *_: Any) -> None:
        """Make it acceptable to `Client.submit`; only the function is called."""
        raise NotImplementedError


def _ended(client: "Client", futures: "list[Future[Any]]", address: str) -> "list[Future[Any]]":
    """Wait a while, and return the futures that have ended: with a result, an error, or because of a lost scheduler.

    Raises:
        UserError: there has been no worker for two minutes.
    """
    from distributed import CancelledError, wait

    try:
        try:
            with client.as_current():
                wait(futures, timeout=POLL, return_when="FIRST_COMPLETED")
        except TimeoutError:
            wait_for_workers(client, address)
    except (CancelledError, OSError):  # the scheduler is lost, which the futures say
        pass
    return [future for future in futures if future.done()]


def _outcome(
    client: "Client", future: "Future[Any]", log: Path, wanted: Mapping[str, object], base: Snapshot
) -> tuple[float, Experiment | UserError]:
    """Return the seconds and the result of a task.

    Raises:
        UserError: the scheduler is lost.
    """
    try:
        ended: Ended = result_of(client, future)
    except Exception as error:
        if future.status != "error":
            raise
        return 0.0, UserError(one_line(error))
    log.write_text(ended["log"], encoding="utf-8")
    try:
        if ended["problem"]:
            raise UserError(ended["problem"])
        if not ended["name"]:
            raise UserError(f"{error_in(ended['log'], ended['code'])}; log: {log}")
        with tempfile.NamedTemporaryFile(dir=FOLDER, suffix=".bundle") as file:
            file.write(ended["bundle"])
            file.flush()
            return ended["seconds"], fetch(Path(file.name).resolve(), ended["name"], wanted, base)
    except UserError as error:
        return ended["seconds"], error


# Run with `python -c`.
SUPERVISOR = Path(process_group.__file__).read_text(encoding="utf-8") + (
    "\nsys.exit(run_while_stdin_is_open(sys.argv[1:]))\n"
)
