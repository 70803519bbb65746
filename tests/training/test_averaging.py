"""The moving average of the weights: its definition, on a network with batch normalization."""

import copy

import torch
from torch import nn

from stages.lib.training.averaging import updater


def test_is_the_mean_of_all_steps_with_falling_factors() -> None:
    """Independent of the weights before the first step; counts are those of the last step."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    average = copy.deepcopy(network)
    update = updater(average, network, 0.8)
    states = []
    for step in range(1, 8):
        with torch.no_grad():
            for weight in network.parameters():
                weight.add_(torch.randn_like(weight))
        network(torch.randn(5, 3))
        update(step)
        states.append(copy.deepcopy(network.state_dict()))
        factors = [0.8 ** (step - 1 - number) for number in range(step)]
        for name, value in average.state_dict().items():
            if value.is_floating_point():
                terms = [factor * state[name].double() for factor, state in zip(factors, states, strict=True)]
                expected = torch.stack(terms).sum(0) / sum(factors)
                torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
            else:
                assert torch.equal(value, states[-1][name])
