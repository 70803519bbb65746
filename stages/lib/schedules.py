"""Learning rate schedules: the learning rate of every step, known before the first.

A plain list instead of a stateful scheduler object: a run that goes on after an interruption needs no scheduler state.
"""

import math

SCHEDULES = ("constant", "cosine", "one_cycle")
ONE_CYCLE_WARMUP = 0.3  # share of the steps, start and end as in torch.optim.lr_scheduler.OneCycleLR
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 10_000


def learning_rates(schedule: str, *, lr: float, warmup: float | None, steps: int) -> list[float]:
    """The learning rate of each step.

    Args:
        schedule: "constant"; "cosine": half a cosine down to 0 (Loshchilov and Hutter 2017, without restarts);
            "one_cycle": up and down again along half cosines (Smith and Topin 2018; the momentum stays as it is).
        lr: the highest learning rate.
        warmup: share of the steps in which it rises to `lr`: along a line from near 0, or, for "one_cycle", along half
            a cosine from lr/25. None: no rise, 0.3 for "one_cycle".
        steps: number of steps, at least 1.

    Returns:
        `steps` numbers.
    """
    if warmup is None:
        warmup = ONE_CYCLE_WARMUP if schedule == "one_cycle" else 0.0
    rising = warmup * steps
    rates = []
    for step in range(steps):
        if schedule == "one_cycle":
            top = rising - 1  # the step at the top
            if step < top:
                factor = _half_cosine(ONE_CYCLE_START, 1.0, step / top)
            else:
                factor = _half_cosine(1.0, ONE_CYCLE_END, (step - top) / (steps - 1 - top) if steps - 1 > top else 0.0)
        elif step < rising:
            factor = (step + 1) / math.ceil(rising + 1)
        elif schedule == "cosine":
            factor = _half_cosine(1.0, 0.0, (step - rising) / (steps - rising))
        else:
            factor = 1.0
        rates.append(lr * factor)
    return rates


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
