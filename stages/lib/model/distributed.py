"""Several processes that train or evaluate one model, on one machine or on many, by PyTorch's own launcher.

    TORCHRUN="--nproc-per-node 2" dvc repro            train and evaluate start the launcher themselves
    torchrun --nproc-per-node 2 -m stages.train        the launcher by hand, as on each of several machines

The launcher (https://docs.pytorch.org/docs/stable/elastic/run.html) starts the processes, numbers them by environment
variables, and starts them again if one is lost; they go on from the last saved state. The rows of a batch are divided
among them, and `DistributedDataParallel` takes the mean of their gradients. The first one alone reads and writes the
state and the results. Without a launcher there is one process, and nothing of this.
"""

import contextlib
import io
import logging
import os
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
from torch import nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from stages.lib.core.errors import UserError, reason
from stages.lib.core.lock import LAUNCHED, LAUNCHER

# Without it the processes meet, when they are started again, by what the lost ones have left in a shared store.
UNSHARED = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
PATIENCE = timedelta(minutes=5)  # in which another process has to answer
LOST = re.compile("gloo|nccl|connection|socket|timed out", re.IGNORECASE)  # torch's words, in a RuntimeError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The processes at work on one model, as one of them sees them."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    launcher: int = 0  # its process number

    def share(self, rows: int) -> slice:
        """Which rows of a batch are this process's: as many as another's, or one more or less.

        Where there are fewer rows than processes, some have a row that is another's too, and does not count for them.
        """
        if rows < self.size:
            return slice(min(self.rank, rows - 1), min(self.rank, rows - 1) + 1)
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def sums(self, *numbers: float) -> list[float]:
        """The sum of each number over all processes."""
        if self.size == 1:
            return list(numbers)
        if os.getppid() != self.launcher:
            raise UserError("the launcher of this process is gone; start it again, to go on from the last saved state")
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def from_first(self, value: T) -> T:
        """What the first process has."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, device=self.device)
        return values[0]

    def to_first(self, value: T) -> list[T]:
        """What each process has, by rank, in the first one; nothing in the others."""
        if self.size == 1:
            return [value]
        values: list[T] | None = [value] * self.size if self.rank == 0 else None
        torch.distributed.gather_object(value, values)
        return values or []

    def mean_of_gradients(self, network: nn.Module) -> nn.Module:
        """A network whose `backward` leaves the mean of all processes' gradients in each."""
        if self.size == 1:
            return network
        devices = None if self.device.type == "cpu" else [self.device]
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)


ALONE = Group()


def launched(stage: str, threads: int) -> bool:
    """Let the launcher do the work of this process, if TORCHRUN in the environment holds options for it.

    Returns:
        Whether it has done it.

    Raises:
        UserError: the options are none of its, or its processes did not finish.
    """
    options = os.environ.get("TORCHRUN")
    if not options or LAUNCHED in os.environ:
        return False
    from torch.distributed import run as launcher  # takes a while, and one process does without it
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ[UNSHARED] = "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what it says is said below
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # its usage, a page long
            arguments = launcher.parse_args([*shlex.split(options), "-m", f"stages.{stage}"])
            launcher.config_from_args(arguments)
    except (SystemExit, ValueError) as error:
        raise UserError(
            f"{LAUNCHER}: found `{options}`, expected options of torchrun, such as --nproc-per-node 2"
        ) from error
    try:
        launcher.run(arguments)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        # The one that was ended from outside, if one was: the others fail for want of it.
        rank, failure = min(error.failures.items(), key=lambda item: item[1].exitcode)
        how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        raise UserError(
            f"process {rank} of this {stage} ended with {how}; what it said stands above, and run it again goes on "
            "from the last saved state (--max-restarts in TORCHRUN does so by itself)"
        ) from error
    except (RuntimeError, OSError, RendezvousError) as error:  # a rendezvous without the others
        raise UserError(
            f"{LAUNCHER}: the machines did not come together ({reason(error)}); start it on each of them"
        ) from error
    return True


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Be one of the processes that the launcher started; without one, the only process.

    Raises:
        UserError: another process was lost, or does not answer.
    """
    if LAUNCHED not in os.environ:
        yield ALONE
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # the first one speaks for all
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        backend = "gloo" if device.type == "cpu" else "nccl"
        store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=PATIENCE)))
        if os.environ["GROUP_WORLD_SIZE"] == "1":  # one launcher: all of its processes know how often it started them
            store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        yield Group(rank, size, device, os.getppid())
        torch.distributed.destroy_process_group()
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        why = re.sub(r"\[[^\]]*/[^\]]*\] *", "", reason(error))  # of torch's own source
        raise UserError(f"process {rank} of {size} lost the others: {why}") from error
