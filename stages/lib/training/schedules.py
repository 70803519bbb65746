"""Learning rate schedules, as functions of the step.

A function has no state, unlike the schedulers of torch.optim: a checkpoint needs none.
"""

import math

from stages.lib.arithmetic.functions import half_cosine

SCHEDULES = ("constant", "cosine", "one_cycle")
# Defaults of torch.optim.lr_scheduler.OneCycleLR: share of the steps; first and last rate relative to the highest.
ONE_CYCLE_WARMUP = 0.3
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 10_000


def learning_rate(step: int, *, schedule: str, lr: float, warmup: float | None, steps: int) -> float:
    """Return the learning rate of a step.

    Args:
        step: from 0.
        schedule: "constant"; "cosine": half a cosine down to 0 (Loshchilov and Hutter 2017, without restarts);
            "one_cycle": up and down again along half cosines (Smith and Topin 2018; the momentum stays as it is).
        lr: the highest learning rate.
        warmup: share of the steps in which it rises to `lr`: linearly from near 0, or, for "one_cycle", along half a
            cosine from lr/25. None: 0, or 0.3 for "one_cycle".
        steps: total number of steps, at least 1.
    """
    if warmup is None:
        warmup = ONE_CYCLE_WARMUP if schedule == "one_cycle" else 0.0
    rising = warmup * steps
    if schedule == "one_cycle":
        top, last = rising - 1, steps - 1
        if step < top:
            return lr * _half_cosine(ONE_CYCLE_START, 1.0, step / top)
        return lr * _half_cosine(1.0, ONE_CYCLE_END, (step - top) / (last - top) if last > top else 0.0)
    if step < rising:
        return lr * (step + 1) / math.ceil(rising + 1)
    if schedule == "cosine":
        return lr * _half_cosine(1.0, 0.0, (step - rising) / (steps - rising))
    return lr


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * half_cosine(progress)
