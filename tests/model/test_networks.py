"""The networks and their parts."""

import pytest
import torch
from torch import nn
from torchvision import models

from stages.lib.model import networks, torchvision_networks

SHAPE = (1, 28, 28)


def weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_the_mlp_of_the_defaults() -> None:
    network = networks.build(
        "mlp", shape=SHAPE, outputs=10, hidden=[96, 256], activation=["tanh", "sigmoid"], dropout=0.2
    )
    assert weights(network) == 102_762
    kinds = [type(layer).__name__ for layer in network.layers]  # type: ignore[union-attr]
    assert kinds == ["Flatten", "Linear", "Tanh", "QuickDropout", "Linear", "Sigmoid", "QuickDropout", "Linear"]
    logits = network.eval()(torch.randn(64, *SHAPE) * 10)
    assert logits.shape == (64, 10)
    assert (logits < 0).any()  # logits, not probabilities


def test_the_mlp_without_hidden_layers_is_linear() -> None:
    assert weights(networks.build("mlp", shape=SHAPE, outputs=10, hidden=[], activation="tanh", dropout=0)) == 7850


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 7), (1, 4, 4)])
def test_the_cnn_takes_any_shape(shape: tuple[int, int, int]) -> None:
    network = networks.build("cnn", shape=shape, outputs=7, hidden=[16], activation="relu", dropout=0.5)
    assert network(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", networks.ACTIVATIONS)
def test_every_activation_works_on_each_number_by_itself(name: str) -> None:
    activation = networks.make_activation(name).eval()
    numbers = torch.randn(5, 8)
    together = activation(numbers)
    assert together.shape == numbers.shape
    torch.testing.assert_close(together[2:3, 4:5], activation(numbers[2:3, 4:5]))


def test_one_name_serves_all_layers() -> None:
    network = networks.build("mlp", shape=SHAPE, outputs=10, hidden=[8, 8, 8], activation="gelu", dropout=0)
    assert sum(isinstance(layer, nn.GELU) for layer in network.modules()) == 3


QUICK = ["resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "alexnet", "swin_t", "vit_b_32", "googlenet", "vgg11_bn"]


def gives_logits(name: str, size: int, channels: int = 1) -> bool:
    """Of two images, as it trains; on shapes alone."""
    try:
        with torch.device("meta"):
            shape = (channels, size, size)
            network = networks.build(name, shape=shape, outputs=7, hidden=[9], activation="relu", dropout=0.5)
            return tuple(network.train()(torch.zeros(2, *shape)).shape) == (2, 7)
    except (RuntimeError, ValueError, AssertionError):
        return False


@pytest.mark.torture(quick=len(QUICK), long=len(torchvision_networks.NAMES))
def test_networks_of_torchvision_and_the_size_they_need(part: int, torture: bool) -> None:
    name = (torchvision_networks.NAMES if torture else QUICK)[part]
    size = torchvision_networks.PATCHES.get(name) or torchvision_networks.SMALLEST[name]
    assert gives_logits(name, size)
    assert gives_logits(name, size, channels=3)
    if size > 1 and name != "maxvit_t":  # which rounds an odd side up
        assert not gives_logits(name, size - 1)
    if name in torchvision_networks.PATCHES:
        assert gives_logits(name, 2 * size)


def test_the_table_has_all_of_torchvision_but_the_regnets() -> None:
    known = {name for name in models.list_models(module=models) if not name.startswith("regnet")}
    assert set(torchvision_networks.NAMES) == known
