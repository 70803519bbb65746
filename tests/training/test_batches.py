"""Order and content of batches."""

from pathlib import Path

import numpy as np
import pytest
import torch

from stages.lib.core.errors import UserError
from stages.lib.model import tensors
from stages.lib.model.tensors import Split
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription
from stages.lib.training import batches
from stages.lib.training.batches import ShuffledBatches, loader

DESCRIPTION = DataDescription(dataset="made up", classes=["a", "b"], shape=(1, 1, 1), mean=[0], std=[1])


def numbered(rows: int) -> Split:
    """Make images whose single pixel is their row number."""
    numbers = torch.arange(rows)
    return Split(numbers.float().reshape(-1, 1, 1, 1), numbers, numbers, DESCRIPTION, sha256="")


def on_disk(folder: Path, rows: int) -> Split:
    """Make the same images on disk, none of them in memory."""
    writer = shards.Writer(folder, DESCRIPTION.shape, np.dtype(np.float32))
    writer.append(np.arange(rows, dtype=np.float32).reshape(-1, 1, 1, 1), np.arange(rows), np.arange(rows))
    writer.finish(DESCRIPTION, "cache")
    return tensors.read(folder, memory=0)


def order(
    split: Split, *, seed: int = 0, epoch: int = 0, batch_size: int = 32, start: int = 0, memory: int = 0
) -> list[list[int]]:
    """Return the row numbers of each batch of an epoch."""
    batches = ShuffledBatches(split, batch_size, seed=seed, memory=memory)
    batches.begin(epoch, start)
    rows = []
    for images, targets in loader(batches, pinned=False):
        assert torch.equal(images.flatten(), targets.float())
        rows.append(targets.tolist())
    return rows


def test_an_epoch_has_every_row_once() -> None:
    batches = order(numbered(1000))
    assert [len(batch) for batch in batches] == [32] * 31 + [8]
    assert sorted(row for batch in batches for row in batch) == list(range(1000))


def test_the_order_follows_from_seed_and_epoch() -> None:
    split = numbered(500)
    assert order(split) == order(split)
    others = [order(split, epoch=1), order(split, seed=1), order(split, seed=2**32 - 1)]
    assert all(other != order(split) for other in others)
    assert others[0] != others[1]


def test_an_epoch_can_begin_at_any_batch() -> None:
    split = numbered(100)
    for start in range(5):
        assert order(split, epoch=3, start=start) == order(split, epoch=3)[start:]


def test_workers_do_not_change_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = order(numbered(300))
    monkeypatch.setenv("LOADER_WORKERS", "2")
    assert order(numbered(300)) == expected


def test_loading_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(5)
    torch.manual_seed(3)
    order(numbered(100))
    assert torch.equal(torch.rand(5), expected)


def test_shuffling_is_uniform() -> None:
    first = [order(numbered(4), seed=seed, batch_size=4)[0][0] for seed in range(2000)]
    counts = torch.bincount(torch.tensor(first), minlength=4)
    assert ((counts - 500).abs() < 80).all()  # four standard deviations


@pytest.fixture
def blocks_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of ten rows, two of which are held at a time; shards of 64."""
    monkeypatch.setattr(batches, "BLOCK", 40)
    monkeypatch.setattr(shards, "SHARD", 256)


@pytest.mark.parametrize("batch_size", [1, 7, 20, 32, 1000])
@pytest.mark.parametrize("rows", [1, 9, 20, 333])
def test_an_epoch_from_disk_has_every_row_once(tmp_path: Path, blocks_of_ten: None, rows: int, batch_size: int) -> None:
    batches = order(on_disk(tmp_path / "split", rows), batch_size=batch_size, memory=160)
    assert [len(batch) for batch in batches] == [min(batch_size, rows - first) for first in range(0, rows, batch_size)]
    assert sorted(row for batch in batches for row in batch) == list(range(rows))


def test_the_order_from_disk_follows_from_seed_epoch_and_memory(
    tmp_path: Path, blocks_of_ten: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = on_disk(tmp_path / "split", 333)
    expected = order(split, memory=160)
    for changed in ({"epoch": 1}, {"seed": 1}, {"memory": 400}):
        assert order(split, **{"memory": 160, **changed}) != expected
    for start in range(12):
        assert order(split, memory=160, start=start) == expected[start:]
    monkeypatch.setenv("LOADER_WORKERS", "2")
    assert order(split, memory=160) == expected
    assert order(split, memory=160, start=5) == expected[5:]


def test_windows_are_shuffled_uniformly_and_pair_all_blocks(tmp_path: Path, blocks_of_ten: None) -> None:
    split = on_disk(tmp_path / "split", 40)
    positions = torch.zeros(40, 40)
    pairs = torch.zeros(4, 4)
    for seed in range(400):
        (rows,) = order(split, seed=seed, batch_size=40, memory=160)
        positions[torch.arange(40), torch.tensor(rows)] += 1
        blocks = {row // 10 for row in rows[:20]}
        assert len(blocks) == 2, "a window is two blocks"
        one, other = sorted(blocks)
        pairs[one, other] += 1
    assert positions.max() < 10 + 6 * 10**0.5, "rows are spread evenly over the positions, 10 times each"
    assert (pairs[torch.triu(torch.ones(4, 4), 1) > 0] > 30).all(), "every two blocks share a window in some epoch"


@pytest.mark.parametrize("workers", ["-1", "two", "1.5"])
def test_a_bad_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("LOADER_WORKERS", workers)
    with pytest.raises(UserError, match=f"LOADER_WORKERS: found `{workers}`"):
        order(numbered(10))
