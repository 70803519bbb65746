"""Learning rate schedules, compared with torch's schedulers."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, OneCycleLR

from stages.lib.training.schedules import learning_rate


def learning_rates(schedule: str, *, lr: float, warmup: float | None, steps: int) -> list[float]:
    return [learning_rate(step, schedule=schedule, lr=lr, warmup=warmup, steps=steps) for step in range(steps)]


def torch_rates(make: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [None, 0.1, 0.5])
def test_one_cycle_equals_that_of_torch(warmup: float | None) -> None:
    share = 0.3 if warmup is None else warmup
    make = partial(OneCycleLR, max_lr=0.1, total_steps=200, pct_start=share, cycle_momentum=False)
    expected = torch_rates(make, 199)
    rates = learning_rates("one_cycle", lr=0.1, warmup=warmup, steps=200)
    assert rates[:199] == pytest.approx(expected, rel=1e-9)


def test_cosine_equals_that_of_torch() -> None:
    expected = torch_rates(partial(CosineAnnealingLR, T_max=50), 50)
    assert learning_rates("cosine", lr=0.1, warmup=None, steps=50) == pytest.approx(expected, rel=1e-6)


def test_constant_does_not_change() -> None:
    assert learning_rates("constant", lr=0.1, warmup=None, steps=5) == [0.1] * 5


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_warmup_rises_linearly_to_the_highest_rate(schedule: str) -> None:
    rates = learning_rates(schedule, lr=1.0, warmup=0.4, steps=10)
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4] == max(rates) == 1.0


@pytest.mark.parametrize("schedule", ["constant", "cosine", "one_cycle"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("warmup", [None, 0.0, 0.3, 0.99])
def test_rates_are_positive_and_at_most_lr_for_any_number_of_steps(
    schedule: str, steps: int, warmup: float | None
) -> None:
    rates = learning_rates(schedule, lr=0.5, warmup=warmup, steps=steps)
    assert len(rates) == steps
    assert all(0 < rate <= 0.5 for rate in rates)
