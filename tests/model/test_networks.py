"""The networks and their parts."""

import pytest
import torch
from torch import nn
from torchvision import models

from stages.lib.model import networks, torchvision_networks

SHAPE = (1, 28, 28)


def count_weights(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_layers_and_weights_of_the_default_mlp() -> None:
    network = networks.build(
        "mlp", shape=SHAPE, outputs=10, hidden=[96, 256], activation=["tanh", "sigmoid"], dropout=0.2
    )
    assert count_weights(network) == 102_762
    kinds = [type(layer).__name__ for layer in network.layers]  # type: ignore[union-attr]
    assert kinds == ["Flatten", "Linear", "Tanh", "QuickDropout", "Linear", "Sigmoid", "QuickDropout", "Linear"]
    logits = network.eval()(torch.randn(64, *SHAPE) * 10)
    assert logits.shape == (64, 10)
    assert (logits < 0).any()  # logits, not probabilities


def test_an_mlp_without_hidden_layers_is_linear() -> None:
    network = networks.build("mlp", shape=SHAPE, outputs=10, hidden=[], activation="tanh", dropout=0)
    assert count_weights(network) == 7850


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 5, 7), (1, 4, 4)])
def test_the_cnn_takes_images_of_any_shape(shape: tuple[int, int, int]) -> None:
    network = networks.build("cnn", shape=shape, outputs=7, hidden=[16], activation="relu", dropout=0.5)
    assert network(torch.randn(3, *shape)).shape == (3, 7)


@pytest.mark.parametrize("name", networks.ACTIVATIONS)
def test_every_activation_is_elementwise(name: str) -> None:
    activation = networks.make_activation(name).eval()
    numbers = torch.randn(5, 8)
    together = activation(numbers)
    assert together.shape == numbers.shape
    torch.testing.assert_close(together[2:3, 4:5], activation(numbers[2:3, 4:5]))


def test_one_activation_name_applies_to_all_hidden_layers() -> None:
    network = networks.build("mlp", shape=SHAPE, outputs=10, hidden=[8, 8, 8], activation="gelu", dropout=0)
    assert sum(isinstance(layer, nn.GELU) for layer in network.modules()) == 3


QUICK = ["resnet18", "shufflenet_v2_x0_5", "squeezenet1_1", "alexnet", "swin_t", "vit_b_32", "googlenet", "vgg11_bn"]


def gives_logits(name: str, size: int, channels: int = 1) -> bool:
    """Whether a network gives logits for two images in training mode, computed on the meta device: shapes only."""
    try:
        with torch.device("meta"):
            shape = (channels, size, size)
            network = networks.build(name, shape=shape, outputs=7, hidden=[9], activation="relu", dropout=0.5)
            return tuple(network.train()(torch.zeros(2, *shape)).shape) == (2, 7)
    except (RuntimeError, ValueError, AssertionError):
        return False


@pytest.mark.torture(quick=len(QUICK), long=len(torchvision_networks.NAMES))
def test_torchvision_networks_give_logits_from_their_smallest_size(part: int, torture: bool) -> None:
    name = (torchvision_networks.NAMES if torture else QUICK)[part]
    size = torchvision_networks.PATCHES.get(name) or torchvision_networks.SMALLEST[name]
    assert gives_logits(name, size)
    assert gives_logits(name, size, channels=3)
    if size > 1 and name != "maxvit_t":  # it rounds an odd side up
        assert not gives_logits(name, size - 1)
    if name in torchvision_networks.PATCHES:
        assert gives_logits(name, 2 * size)


def test_all_torchvision_networks_but_the_regnets_are_listed() -> None:
    known = {name for name in models.list_models(module=models) if not name.startswith("regnet")}
    assert set(torchvision_networks.NAMES) == known
