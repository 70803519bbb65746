"""The networks and their parts."""

import pytest
import torch
from torch import nn

from stages.lib import networks

SHAPE = (1, 28, 28)


def weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_mlp_of_the_defaults() -> None:
    network = networks.build(
        "mlp", shape=SHAPE, classes=10, hidden=[96, 256], activation=["tanh", "sigmoid"], dropout=0.2
    )
    assert weights(network) == 102_762
    kinds = [type(layer).__name__ for layer in network.layers]  # type: ignore[union-attr]
    assert kinds == ["Flatten", "Linear", "Tanh", "Dropout", "Linear", "Sigmoid", "Dropout", "Linear"]
    logits = network.eval()(torch.randn(64, *SHAPE) * 10)
    assert logits.shape == (64, 10)
    assert (logits < 0).any()  # logits, not probabilities


def test_the_mlp_without_hidden_layers_is_linear() -> None:
    assert weights(networks.build("mlp", shape=SHAPE, classes=10, hidden=[], activation="tanh", dropout=0)) == 7850


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 7), (1, 4, 4)])
def test_the_cnn_takes_any_shape(shape: tuple[int, int, int]) -> None:
    network = networks.build("cnn", shape=shape, classes=7, hidden=[16], activation="relu", dropout=0.5)
    assert network(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", networks.ACTIVATIONS)
def test_every_activation_works_on_each_number_by_itself(name: str) -> None:
    activation = networks.make_activation(name).eval()
    numbers = torch.randn(5, 8)
    together = activation(numbers)
    assert together.shape == numbers.shape
    torch.testing.assert_close(together[2:3, 4:5], activation(numbers[2:3, 4:5]))


def test_one_name_serves_all_layers() -> None:
    network = networks.build("mlp", shape=SHAPE, classes=10, hidden=[8, 8, 8], activation="gelu", dropout=0)
    assert sum(isinstance(layer, nn.GELU) for layer in network.modules()) == 3
