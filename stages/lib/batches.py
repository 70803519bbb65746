"""Dataset and DataLoader over one split in memory: whole batches by index, no work per image.

The order of an epoch follows from (seed, epoch) alone, so that neither the number of workers nor an interruption
changes it.
"""

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from types import TracebackType

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from stages.lib.stage import UserError
from stages.lib.tensors import Split


class SplitDataset(Dataset[tuple[Tensor, Tensor]]):
    """Indexed by many rows at once: rows (B,) int64 or a slice -> images (B, C, H, W) float32, targets (B,) int64."""

    def __init__(self, split: Split) -> None:
        self.images, self.targets = split.images, split.targets

    def __getitem__(self, rows: Tensor | slice) -> tuple[Tensor, Tensor]:
        if isinstance(rows, slice):
            # A copy: where in memory the file happens to be mapped would change the last bits of a product.
            return self.images[rows].clone().float(), self.targets[rows]
        # Row by row in one piece each, in half the time of `images[rows]`.
        return self.images.index_select(0, rows).float(), self.targets.index_select(0, rows)


class ShuffledBatches(Sampler[Tensor]):
    """The rows of each batch of an epoch: every row once, uniformly shuffled; the last batch may be smaller.

    `epoch`, from 0, says of which epoch, and `start` behind how many of its batches to begin.
    """

    def __init__(self, rows: int, batch_size: int, *, seed: int) -> None:
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.epoch, self.start = 0, 0

    def __iter__(self) -> Iterator[Tensor]:
        own = torch.Generator().manual_seed(derived_seed(self.seed, "shuffle", self.epoch))
        order = torch.randperm(self.rows, generator=own)
        for first in range(self.start * self.batch_size, self.rows, self.batch_size):
            yield order[first : first + self.batch_size]

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)


class Slices(Sampler[slice]):
    """The rows in their own order."""

    def __init__(self, rows: int, batch_size: int) -> None:
        self.rows, self.batch_size = rows, batch_size

    def __iter__(self) -> Iterator[slice]:
        for start in range(0, self.rows, self.batch_size):
            yield slice(start, min(start + self.batch_size, self.rows))

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)


class InMemory:
    """The batches of a split in this process: a DataLoader without what it costs at each batch."""

    def __init__(self, dataset: SplitDataset, batches: ShuffledBatches | Slices) -> None:
        self.dataset, self.batches = dataset, batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return (self.dataset[rows] for rows in self.batches)


def loader(split: Split, batches: ShuffledBatches | Slices) -> "InMemory | DataLoader[tuple[Tensor, Tensor]]":
    """What gives each batch in one piece.

    `LOADER_WORKERS` processes load ahead with a DataLoader, in the same order; 0, the default, because the tensors are
    in memory already and sending them from another process costs more than it saves.

    Raises:
        UserError: LOADER_WORKERS is not a whole number of at least 0.
    """
    text = os.environ.get("LOADER_WORKERS", "0")
    if not text.isdecimal():
        raise UserError(f"LOADER_WORKERS: found `{text}`, expected a whole number of at least 0; unset it for none")
    if not int(text):
        return InMemory(SplitDataset(split), batches)
    # Without a generator of its own the loader would draw from the global one, and with it change dropout's draws.
    own = torch.Generator()
    return DataLoader(
        SplitDataset(split),
        sampler=batches,
        batch_size=None,
        num_workers=int(text),
        persistent_workers=True,
        worker_init_fn=_leave_signals_to_the_parent,
        generator=own,
    )


def _leave_signals_to_the_parent(_worker: int) -> None:
    """Ctrl-C reaches the whole process group; the parent then ends its workers in good order."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _tell


def _tell(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """The parent may end while a batch is on its way to it: that is no error of the worker's."""
    if not issubclass(kind, ConnectionError):
        sys.__excepthook__(kind, error, traceback)


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed of 32 bits (torch's CPU generator takes no more) for one purpose in one epoch or step."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
