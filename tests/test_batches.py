"""Order and content of batches."""

import pytest
import torch

from stages.lib.batches import ShuffledBatches, Slices, loader
from stages.lib.description import DataDescription
from stages.lib.stage import UserError
from stages.lib.tensors import Split


def numbered(rows: int) -> Split:
    """Images whose one pixel is their row number."""
    numbers = torch.arange(rows)
    description = DataDescription(dataset="made up", classes=["a"] * rows, shape=(1, 1, 1), mean=[0], std=[1])
    return Split(numbers.float().reshape(-1, 1, 1, 1), numbers, numbers, description, sha256="")


def order(split: Split, *, seed: int = 0, epoch: int = 0, batch_size: int = 32, start: int = 0) -> list[list[int]]:
    batches = ShuffledBatches(len(split), batch_size, seed=seed)
    batches.epoch, batches.start = epoch, start
    seen = []
    for images, targets in loader(split, batches):
        assert torch.equal(images.flatten(), targets.float())
        seen.append(targets.tolist())
    return seen


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


def test_an_epoch_can_begin_behind_its_first_batches() -> None:
    split = numbered(100)
    for start in range(5):
        assert order(split, epoch=3, start=start) == order(split, epoch=3)[start:]


def test_workers_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = order(numbered(300))
    monkeypatch.setenv("LOADER_WORKERS", "2")
    assert order(numbered(300)) == alone


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


def test_slices_cover_the_rows_in_order() -> None:
    split = numbered(25)
    batches = [targets.tolist() for _, targets in loader(split, Slices(25, 10))]
    assert batches == [list(range(10)), list(range(10, 20)), list(range(20, 25))]


@pytest.mark.parametrize("workers", ["-1", "two", "1.5"])
def test_a_bad_number_of_workers_is_refused(monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    monkeypatch.setenv("LOADER_WORKERS", workers)
    with pytest.raises(UserError, match=f"LOADER_WORKERS: found `{workers}`"):
        order(numbered(10))
