"""Dataset and DataLoader: the batches of a training, in an order that follows from seed and epoch alone.

Neither the number of workers nor an interruption changes it. Where memory holds all images of a split, each epoch is a
uniform shuffle of them. Where it does not, they are read a window at a time: the split is cut into blocks of
neighbouring rows, the blocks are shuffled, as many as half the memory holds make a window, and the rows of a window are
shuffled. While one window is used, the next is read, in the order of the disk. So every row comes once an epoch, and
any two may meet in a batch, if not in each epoch; data sorted by class lose nothing but that blocks stay together.
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

BLOCK = 1 << 18  # bytes of neighbouring rows


class ShuffledBatches(IterableDataset[tuple[Tensor, Tensor]]):
    """Images (B, C, H, W) as they are stored, and targets (B,); every row once an epoch, the last batch may be smaller.

    `begin` says of which epoch, from 0, and behind how many of its batches; processes that load ahead see it too.
    Of several processes each has the images of its `share` of a batch alone, and the targets of all of it.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        seed: int,
        memory: int,
        share: Callable[[int], slice] = lambda rows: slice(0, rows),
    ) -> None:
        self.split, self.batch_size, self.seed, self.share = split, batch_size, seed, share
        self.memory = memory  # bytes of images, where they are not in memory already
        self.place = torch.zeros(2, dtype=torch.int64).share_memory_()  # epoch, and how many batches are done

    def begin(self, epoch: int, done: int) -> None:
        """Say where the next iteration begins."""
        self.place.copy_(torch.tensor([epoch, done]))

    def __len__(self) -> int:
        return -(-len(self.split) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        worker = get_worker_info()  # one of several processes that load ahead takes every so manieth batch
        epoch, batch = self.place.tolist()
        batch, step = (batch + worker.id, worker.num_workers) if worker else (batch, 1)
        pieces: list[tuple[Tensor, Tensor]] = []  # of a batch that two windows share
        for first, order, images, targets in self._windows(epoch, batch * self.batch_size):
            last = first + len(order)
            while (low := max(batch * self.batch_size, first)) < last:
                end = min((batch + 1) * self.batch_size, len(self.split))
                rows = order[low - first : min(end, last) - first]
                mine = self.share(end - batch * self.batch_size)
                start, stop = (max(0, batch * self.batch_size + place - low) for place in (mine.start, mine.stop))
                # Row by row in one piece each, in half the time of `images[rows]`.
                pieces.append((images.index_select(0, rows[start:stop]), targets.index_select(0, rows)))
                if end > last:
                    break
                yield pieces[0] if len(pieces) == 1 else tuple(map(torch.cat, zip(*pieces, strict=True)))  # type: ignore[misc]
                pieces, batch = [], batch + step

    def _windows(self, epoch: int, begin: int) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """Position in the epoch, order of the rows, images and targets of each window that ends behind `begin`."""
        if isinstance(self.split.images, Tensor):
            order = torch.randperm(len(self.split), generator=self._generator("shuffle", epoch))
            yield 0, order.to(self.split.images.device), self.split.images, self.split.targets
            return
        rows = max(1, BLOCK // self.split.images.bytes_of_a_row)
        blocks = torch.randperm(-(-len(self.split) // rows), generator=self._generator("blocks", epoch))
        held = max(1, self.memory // 2 // (rows * self.split.images.bytes_of_a_row))
        waiting, position = [], 0
        for number, some in enumerate(blocks.split(held)):
            ranges = [(at * rows, min((at + 1) * rows, len(self.split))) for at in some.sort().values.tolist()]
            behind = position + sum(high - low for low, high in ranges)
            if behind > begin:
                waiting.append((epoch, position, number, ranges))
            position = behind
        with ThreadPoolExecutor(max_workers=1) as reader:
            ahead = [reader.submit(self._read, *window) for window in waiting[:1]]
            for number in range(len(waiting)):
                found = ahead.pop().result()
                ahead += [reader.submit(self._read, *window) for window in waiting[number + 1 : number + 2]]
                yield found

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
    """The batches, loaded ahead if that is wanted, `pinned` where they are to be copied to a GPU.

    `LOADER_WORKERS` processes do so with a DataLoader, in the same order; 0, the default, because the images are in
    memory already, or read ahead, and sending them from another process costs more than it saves.

    Raises:
        UserError: LOADER_WORKERS is not a whole number of at least 0.
    """
    text = os.environ.get("LOADER_WORKERS", "0")
    if not text.isdecimal():
        raise UserError(f"LOADER_WORKERS: found `{text}`, expected a whole number of at least 0; unset it for none")
    if not int(text):
        return batches
    # Without a generator of its own the loader would draw from the global one, and with it change dropout's draws.
    own = torch.Generator()
    return DataLoader(
        batches,
        batch_size=None,
        num_workers=int(text),
        pin_memory=pinned,
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
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, traceback)


def derived_seed(seed: int, purpose: str, number: int) -> int:
    """A seed of 32 bits (torch's CPU generator takes no more) for one purpose in one epoch or step."""
    digest = hashlib.sha256(f"{seed} {purpose} {number}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
