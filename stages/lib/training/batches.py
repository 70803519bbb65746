"""Dataset and DataLoader: the batches of a training.

Their order depends on seed and epoch, and on `memory` if the images are read from disk.

Neither the number of workers nor an interruption changes it. If memory holds all images of a split, each epoch is a
uniform shuffle. If not, they are read one window at a time: the split is divided into blocks of consecutive rows, the
blocks are shuffled, as many as fit into half the memory make a window, and the rows of a window are shuffled. While one
window is used, the next is read, in the order of the disk. So every row comes once per epoch, and any two rows may
share a batch, though not in every epoch.
"""

import hashlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from stages.lib.core.errors import UserError
from stages.lib.model.tensors import Split

BLOCK = 1 << 18  # bytes of consecutive rows


class ShuffledBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Images (B, C, H, W) as they are stored, and targets: every row once per epoch, the last batch smaller.

    `begin` selects the epoch and the first batch; data loader workers see it too. With several ranks each gets the
    images of its own rows, and the targets of the whole batch.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        memory: int,
        rows_of: Callable[[int], slice] = lambda rows: slice(0, rows),
    ) -> None:
        """Make the batches of a split.

        Args:
            split: the images and targets.
            batch_size: rows per batch.
            seed: of the order.
            memory: bytes of images to hold at a time, unless they are in memory already.
            rows_of: the rows of this rank in a batch of this size.
        """
        self.split, self.batch_size, self.seed, self.memory, self.rows_of = split, batch_size, seed, memory, rows_of
        self.start = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, and its first batch

    def begin(self, epoch: int, batch: int) -> None:
        """Set where the next iteration begins: at a batch of an epoch, both from 0."""
        self.start.copy_(torch.tensor([epoch, batch]))

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()  # worker w of W loads batches w, w + W, w + 2W, ...
        epoch, batch = self.start.tolist()
        batch, step = (batch + worker.id, worker.num_workers) if worker else (batch, 1)
        pieces: list[tuple[Tensor, Tensor]] = []  # of a batch that spans two windows
        for first, order, images, targets in self._windows(epoch, batch * self.batch_size):
            last = first + len(order)
            while (low := max(batch * self.batch_size, first)) < last:
                end = min((batch + 1) * self.batch_size, len(self.split))
                rows = order[low - first : min(end, last) - first]
                mine = self.rows_of(end - batch * self.batch_size)
                start, stop = (max(0, batch * self.batch_size + row - low) for row in (mine.start, mine.stop))
                # index_select takes half the time of `images[rows]`.
                pieces.append((images.index_select(0, rows[start:stop]), targets.index_select(0, rows)))
                if end > last:
                    break
                yield pieces[0] if len(pieces) == 1 else tuple(map(torch.cat, zip(*pieces, strict=True)))  # type: ignore[misc]
                pieces, batch = [], batch + step

    def _windows(self, epoch: int, begin: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Yield position in the epoch, order of the rows, images and targets of each window that ends after `begin`."""
        if isinstance(self.split.images, Tensor):
            order = torch.randperm(len(self.split), generator=self._generator("shuffle", epoch))
            yield 0, order.to(self.split.images.device), self.split.images, self.split.targets
            return
        rows = max(1, BLOCK // self.split.images.bytes_of_a_row)
        blocks = torch.randperm(-(-len(self.split) // rows), generator=self._generator("blocks", epoch))
        blocks_per_window = max(1, self.memory // 2 // (rows * self.split.images.bytes_of_a_row))
        windows, position = [], 0
        for number, window in enumerate(blocks.split(blocks_per_window)):
            ranges = [(at * rows, min((at + 1) * rows, len(self.split))) for at in window.sort().values.tolist()]
            end = position + sum(high - low for low, high in ranges)
            if end > begin:
                windows.append((epoch, position, number, ranges))
            position = end
        with ThreadPoolExecutor(max_workers=1) as reader:
            pending = [reader.submit(self._read, *arguments) for arguments in windows[:1]]
            for number in range(len(windows)):
                window_read = pending.pop().result()
                pending += [reader.submit(self._read, *arguments) for arguments in windows[number + 1 : number + 2]]
                yield window_read

    def _read(
        self, epoch: int, position: int, number: int, ranges: list[tuple[int, int]]
    ) -> tuple[int, Tensor, Tensor, Tensor]:
        stored = self.split.images
        assert not isinstance(stored, Tensor)
        rows = sum(high - low for low, high in ranges)
        images = np.empty((rows, *stored.description.shape), stored.dtype)
        done = 0
        for low, high in ranges:
            stored.read_into(images[done : done + high - low], low)
            done += high - low
        targets = torch.cat([self.split.targets[low:high] for low, high in ranges])
        order = torch.randperm(rows, generator=self._generator(f"window {number}", epoch))
        return position, order, torch.from_numpy(images), targets

    def _generator(self, purpose: str, epoch: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, purpose, epoch))


def loader(batches: ShuffledBatches, *, pinned: bool) -> "ShuffledBatches | DataLoader[tuple[Tensor, Tensor]]":
    """Return the batches, prefetched by a DataLoader if LOADER_WORKERS is set.

    The order is the same with any number of workers. The default is 0: the images are in memory or read ahead already,
    and sending them from another process costs more than it saves.

    Raises:
        UserError: LOADER_WORKERS is not a whole number of at least 0.
    """
    text = os.environ.get("LOADER_WORKERS", "0")
    if not text.isdecimal():
        raise UserError(f"LOADER_WORKERS: found `{text}`, expected a whole number of at least 0; unset it for none")
    if not int(text):
        return batches
    # Without a generator the loader draws from the global one, and so would change dropout's masks.
    generator = torch.Generator()
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=int(text),
        pin_memory=pinned,
        persistent_workers=True,
        worker_init_fn=_init_worker,
        generator=generator,
    )


def _init_worker(_worker: int) -> None:
    """Ignore SIGINT and SIGTERM, which reach the whole process group: the parent ends its workers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.excepthook = _report


def _report(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """Report an exception of a worker, unless the parent ended while the worker sent it a batch."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """Derive a 32-bit seed (torch's CPU generator uses no more) for one purpose in one epoch or step."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
