"""A connection to a Dask cluster, whose workers run functions for this process.

The environment variable CLUSTER names the scheduler, `tcp://host:8786`, or `tls://host:8786`: Dask's configuration
names the certificates. Without it nothing of Dask is imported.
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from stages.lib.core.errors import UserError, reason

if TYPE_CHECKING:
    from distributed import Client, Future

CLUSTER = "CLUSTER"
ADDRESS = re.compile(r"(tcp|tls)://[^/\s]+:\d+")
CONNECTING = 10  # seconds for an answer of the scheduler
WAITING = 120  # seconds without any worker
POLL = 2.0  # seconds
# Other versions of these may give other results, or not understand each other.
PACKAGES = ("cloudpickle", "dask", "distributed", "msgpack", "numpy", "pillow", "safetensors", "torch", "torchvision")
# The scheduler computes nothing.
PACKAGES_OF_SCHEDULER = ("cloudpickle", "dask", "distributed", "msgpack")


def cluster_address() -> str | None:
    """Return the address of the scheduler, if the user has set one."""
    return os.environ.get(CLUSTER) or None


@contextmanager
def connected(address: str) -> "Iterator[Client]":
    """Connect to a scheduler, check that all versions are equal, and print where the dashboard is.

    When the block ends, what this process has submitted and nobody has begun is removed from the cluster.

    Raises:
        UserError: there is no scheduler, or no worker in two minutes, or a version differs.
    """
    try:
        from distributed import Client
        from distributed.versions import VersionMismatchWarning
    except ImportError as error:
        raise UserError(
            f"{CLUSTER} is set, but Dask is not installed ({reason(error)}); run `pip install distributed`, or unset it"
        ) from error
    if not ADDRESS.fullmatch(address):
        raise UserError(
            f"{CLUSTER}: found `{address}`, expected the address of a Dask scheduler, such as tcp://host:8786"
        )
    for name in ("distributed", "distributed.client"):  # which report each lost connection with a traceback
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore", VersionMismatchWarning)  # `_compare_versions` says more
    try:
        client = Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TypeError: no certificate for tls://
        raise UserError(
            f"{CLUSTER}: no Dask scheduler answers at {address} ({reason(error)}); start it, and see that this machine "
            "reaches it; with tls://, Dask's configuration has to name the certificates"
        ) from error
    with client:
        wait_for_workers(client, address)
        _compare_versions(client)
        workers = client.nthreads()
        size = f"{len(workers):,} worker(s), {sum(workers.values()):,} thread(s)"
        print(f"cluster: {size}; dashboard {client.dashboard_link}", file=sys.stderr)
        yield client


def wait_for_workers(client: "Client", address: str) -> None:
    """Wait until there is a worker.

    Raises:
        UserError: there is none in two minutes.
    """
    if client.nthreads():
        return
    print(f"cluster: no worker yet at {address}; waiting", file=sys.stderr)
    try:
        client.wait_for_workers(1, timeout=WAITING)
    except TimeoutError as error:
        raise UserError(
            f"{CLUSTER}: the scheduler at {address} has no worker; start some: `dask worker {address}`"
        ) from error


def result_of(client: "Client", future: "Future[Any]") -> Any:
    """Wait for a result. Dask runs a task again if its worker is lost.

    Raises:
        UserError: the task killed several workers, all workers or the scheduler are gone.
        Exception: what the task has raised.
    """
    from distributed import CancelledError, KilledWorker

    scheduler: Any = client.scheduler
    address = scheduler.address
    try:
        while True:
            try:
                return future.result(timeout=POLL)
            except TimeoutError:
                if future.done():
                    raise
                wait_for_workers(client, address)
    except KilledWorker as error:
        raise UserError(
            f"{CLUSTER}: {error.allowed_failures + 1} worker(s) died of the same task, last {error.last_worker.address}"
            ", perhaps for want of memory; see their logs, or start fewer on each machine"
        ) from error
    except (CancelledError, OSError) as error:
        if isinstance(error, OSError) and future.done() and future.status == "error":
            raise  # the task's
        raise UserError(f"{CLUSTER}: the scheduler at {address} is gone; start it, and run this again") from error


def _compare_versions(client: "Client") -> None:
    """Compare the versions of all workers and the scheduler with those of this process.

    Raises:
        UserError: one differs.
    """
    found: Any = client.get_versions(packages=list(PACKAGES))
    here = found["client"]["packages"]
    for where, packages in {found_at: each["packages"] for found_at, each in found["workers"].items()}.items():
        _compare(f"worker {where}", packages, here, PACKAGES)
    _compare("the scheduler", found["scheduler"]["packages"], here, PACKAGES_OF_SCHEDULER)


def _compare(where: str, there: dict[str, str | None], here: dict[str, str | None], names: tuple[str, ...]) -> None:
    for name in (*names, "python"):
        versions = [str(packages.get(name)) for packages in (there, here)]
        if name == "python":
            versions = [".".join(version.split(".")[:2]) for version in versions]
        if versions[0] != versions[1]:
            raise UserError(
                f"{CLUSTER}: {where} has {name} {versions[0]}, expected {versions[1]} as here; install "
                "requirements.lock there"
            )
