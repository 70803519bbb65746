"""Several processes that train or evaluate one model, on one machine or on many, started by PyTorch's launcher.

    TORCHRUN="--nproc-per-node 2" dvc repro            train and evaluate start the launcher themselves
    torchrun --nproc-per-node 2 -m stages.train        the launcher by hand, as on each of several machines

The launcher (https://docs.pytorch.org/docs/stable/elastic/run.html) starts the processes, gives each its rank, and
restarts them if one is lost; they resume from the last checkpoint. The ranks divide the rows of each batch, and
`DistributedDataParallel` averages their gradients. Rank 0 alone reads and writes checkpoints and results. Without a
launcher there is one process, and none of this applies.
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
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from stages.lib.core.errors import UserError, reason
from stages.lib.core.lock import LAUNCHED, LAUNCHER
from stages.lib.model import compute
from stages.lib.model.batch_rows import BatchRows
from stages.lib.model.packing import empty_tensors, pack, unpack

# Unless it is off, restarted processes meet through a shared store that still holds what the lost ones wrote.
SHARED_STORE_OFF = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
TIMEOUT = timedelta(minutes=5)  # for the answer of another rank
CONNECTION_LOST = re.compile("gloo|nccl|connection|socket|timed out", re.IGNORECASE)  # torch raises a RuntimeError

T = TypeVar("T")


@dataclass(frozen=True)
class Group:
    """The ranks that work on one model, as seen by one of them. One process is a group of size 1."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    launcher_pid: int = 0
    batch: BatchRows = field(default_factory=BatchRows)  # for dropout and augmentation

    def rows_of(self, rows: int) -> slice:
        """Return which rows of a batch this rank computes: consecutive; the numbers of two ranks differ by at most one.

        With fewer rows than ranks, some ranks compute a copy of another rank's row; `counts` is false for them.
        """
        if rows < self.size:
            return slice(min(self.rank, rows - 1), min(self.rank, rows - 1) + 1)
        return slice(rows * self.rank // self.size, rows * (self.rank + 1) // self.size)

    def begin_batch(self, rows: int) -> slice:
        """Begin a batch of `rows` rows and return which of them this rank computes."""
        mine = self.rows_of(rows)
        if self.size > 1:
            self.batch.select(mine, rows)
        return mine

    def counts(self, rows: int) -> bool:
        """Whether this rank's rows of a batch count, or are copies of another rank's."""
        return self.rank < rows

    def seed_dropout(self, seed: int) -> None:
        """Seed each rank on a GPU differently: torch's dropout would otherwise draw the same mask on all."""
        if self.size > 1 and self.device.type != "cpu":
            compute.seed(self.device, seed + self.rank)

    def maximum(self, values: Tensor) -> Tensor:
        """Return the elementwise maximum over all ranks."""
        if self.size == 1:
            return values
        values = values.clone() if self.counts(self.batch.total) else torch.zeros_like(values)
        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.MAX)
        return values

    def sum_exactly(self, values: Tensor) -> Tensor:
        """Return the elementwise sum over all ranks, which is exact if all terms are multiples of one unit."""
        if self.size == 1:
            return values
        values = values.contiguous() if self.counts(self.batch.total) else torch.zeros_like(values)
        torch.distributed.all_reduce(values)
        return values

    def rows_in_all(self, rows: int) -> int:
        """Return how many rows the current batch has, of which this rank computes `rows`."""
        return rows if self.size == 1 else self.batch.total

    def of_this_rank(self, values: Tensor) -> Tensor:
        """Select the rows of this rank from values for the whole batch."""
        return values if self.size == 1 else values[self.batch.mine]

    def total(self, number: float) -> float:
        """Return the sum of a number over all ranks."""
        if self.size == 1:
            return number
        total = torch.tensor(number, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(total)
        return float(total)

    def require_launcher(self) -> None:
        """Check that the launcher of this process is still running.

        Raises:
            UserError: it is gone.
        """
        if self.size > 1 and os.getppid() != self.launcher_pid:
            raise UserError("the launcher of this process is gone; start it again to resume from the last checkpoint")

    def broadcast_weights(self, *networks: nn.Module) -> None:
        """Give every rank the weights and buffers that rank 0 has."""
        if self.size > 1:
            for value in (value for network in dict.fromkeys(networks) for value in network.state_dict().values()):
                torch.distributed.broadcast(value, 0)

    def broadcast(self, value: T) -> T:
        """Return the value that rank 0 has: numbers and tensors, as `packing` describes."""
        if self.size == 1:
            return value
        text, tensors = pack(value) if self.rank == 0 else ("", [])
        length = torch.tensor(len(text.encode()), device=self.device)
        torch.distributed.broadcast(length, 0)
        encoded = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == 0:
            encoded = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        encoded = encoded.to(self.device)
        torch.distributed.broadcast(encoded, 0)
        text = bytes(encoded.tolist()).decode()
        received = []
        for tensor in tensors if self.rank == 0 else empty_tensors(text):
            sent = tensor.to(self.device).contiguous()
            torch.distributed.broadcast(sent, 0)
            received.append(sent.to(tensor.device))
        return unpack(text, received)  # type: ignore[no-any-return]

    def gather(self, rows: Tensor) -> list[Tensor]:
        """Return the tensor (n, outputs) of each rank, in rank order, on rank 0; an empty list on the others."""
        if self.size == 1:
            return [rows]
        sizes = [torch.empty(2, dtype=torch.int64, device=self.device) for _ in range(self.size)]
        torch.distributed.all_gather(sizes, torch.tensor(rows.shape, device=self.device))
        largest = torch.stack(sizes).amax(0).tolist()
        padded = torch.zeros(largest, dtype=rows.dtype, device=self.device)
        padded[: rows.shape[0], : rows.shape[1]] = rows
        gathered = [torch.empty_like(padded) for _ in sizes] if self.rank == 0 else None
        torch.distributed.gather(padded, gathered)
        return [each[: int(size[0])].cpu() for each, size in zip(gathered or [], sizes, strict=False)]

    def average_gradients(self, network: nn.Module) -> nn.Module:
        """Wrap a network so that `backward` averages the gradients over all ranks."""
        if self.size == 1:
            return network
        devices = None if self.device.type == "cpu" else [self.device]
        return nn.parallel.DistributedDataParallel(network, device_ids=devices)


SINGLE = Group()


def launched(stage: str, threads: int) -> bool:
    """Run the stage under the launcher if TORCHRUN in the environment holds options for it.

    Returns:
        Whether it did.

    Raises:
        UserError: the launcher does not know the options, the machines did not meet, or a rank failed.
    """
    options = os.environ.get(LAUNCHER)
    if not options or LAUNCHED in os.environ:
        return False
    from torch.distributed import run as launcher  # slow to import; one process does without
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError

    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ[SHARED_STORE_OFF] = "1"
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # replaced by the messages below
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # argparse prints its usage
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
        # The rank that a signal ended, if any: the others fail because it is gone.
        rank, failure = min(error.failures.items(), key=lambda item: item[1].exitcode)
        how = failure.signal_name() if failure.exitcode < 0 else f"exit code {failure.exitcode}"
        raise UserError(
            f"rank {rank} of this {stage} ended with {how}; see above for its message, if any; run it again to resume "
            "from the last checkpoint (--max-restarts in TORCHRUN restarts it automatically)"
        ) from error
    except (RuntimeError, OSError, RendezvousError) as error:  # of the rendezvous
        raise UserError(f"{LAUNCHER}: the machines did not meet ({reason(error)}); start it on each of them") from error
    return True


@contextmanager
def joined(device: torch.device) -> Iterator[Group]:
    """Join the process group if the launcher started this process; otherwise yield a group of one.

    Raises:
        UserError: another rank was lost, or does not answer.
    """
    if LAUNCHED not in os.environ:
        yield SINGLE
        return
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # rank 0 prints for all
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        backend = "gloo" if device.type == "cpu" else "nccl"
        store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=TIMEOUT)))
        if os.environ["GROUP_WORLD_SIZE"] == "1":  # one launcher: its processes agree on the restart count
            store = PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
        torch.distributed.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT)
        yield Group(rank, size, device, os.getppid())
        torch.distributed.destroy_process_group()
    except RuntimeError as error:
        if not CONNECTION_LOST.search(str(error)):
            raise
        why = re.sub(r"\[[^\]]*/[^\]]*\] *", "", reason(error))  # file and line in torch's source
        raise UserError(f"rank {rank} of {size} lost the others: {why}") from error
