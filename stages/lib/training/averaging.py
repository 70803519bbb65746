"""An exponential moving average of the weights, which often scores better than the weights of the last step.

After t steps it is the mean of the weights w_1, ..., w_t with factors decay^(t-i): the correction by which Adam
(Kingma and Ba 2015) removes the initial value. Running statistics of batch normalization are averaged like weights
(as `torch.optim.swa_utils.AveragedModel` does with `use_buffers`, which takes twice as long and is not portable).
"""

from collections.abc import Callable

from torch import nn

from stages.lib.arithmetic.functions import power


def updater(average: nn.Module, network: nn.Module, decay: float) -> Callable[[int], None]:
    """Return a function that updates the average after a step.

    Args:
        average: a copy of the network, changed in place.
        network: in training. The optimizer has to be built first: it may move the weights.
        decay: of the factor, per step, above 0 and below 1.

    Returns:
        number of steps so far, at least 1 -> None
    """
    pairs = [*zip(average.state_dict().values(), network.state_dict().values(), strict=True)]
    floating = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
    counts = [(mean, value) for mean, value in pairs if not mean.is_floating_point()]

    def update(steps: int) -> None:
        share = (1 - decay) / (1 - power(decay, steps))
        for mean, value in floating:
            mean.add_((value - mean).mul_(share))  # rounded after each operation; `lerp` is not, on some processors
        for mean, value in counts:
            mean.copy_(value)

    return update
