"""Portable layers, activations and losses, against PyTorch's own in float64, with their gradients."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.lib.arithmetic.guard import guarded
from stages.lib.arithmetic.mode import Portable
from stages.lib.model import networks
from stages.lib.model.dropout import QuickDropout
from stages.lib.training import losses

LAYERS: dict[str, tuple[nn.Module, int]] = {  # and their channels
    "linear": (nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 9)), 3),
    "linear of the last of four dimensions": (nn.Linear(12, 5, bias=False), 2),
    "convolution": (nn.Conv2d(3, 8, 3, padding=1), 3),
    "convolution with a stride, in groups": (nn.Conv2d(4, 8, 3, stride=2, groups=2, bias=False), 4),
    "dilated convolution of each channel": (nn.Conv2d(6, 6, (3, 5), padding=(2, 1), dilation=2, groups=6), 6),
    "convolution that keeps the size": (nn.Conv2d(2, 3, (3, 5), padding="same"), 2),
    "batch normalization": (nn.BatchNorm2d(5), 5),
    "batch normalization without weights": (nn.BatchNorm2d(5, affine=False, momentum=0.3), 5),
    "layer normalization": (nn.LayerNorm(12), 3),
    "max pooling": (nn.MaxPool2d(2), 3),
    "max pooling of overlapping windows": (nn.MaxPool2d(3, 2, 1), 3),
    "max pooling that rounds up": (nn.MaxPool2d(3, 2, ceil_mode=True), 3),
    "mean pooling": (nn.AvgPool2d(2), 3),
    "mean pooling of overlapping windows": (nn.AvgPool2d(3, 1, 1), 3),
    "mean pooling without the padding": (nn.AvgPool2d(3, 2, 1, count_include_pad=False), 3),
    "global mean": (nn.AdaptiveAvgPool2d(1), 3),
    "adaptive mean pooling": (nn.AdaptiveAvgPool2d((7, 5)), 3),
}


def in_both(
    portable: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], x: Tensor
) -> tuple[list[Tensor], list[Tensor]]:
    """Compute outputs and the gradient of x, in portable arithmetic under the guard, and in float64."""
    ours, theirs = x.clone().requires_grad_(), x.double().requires_grad_()
    expected = reference(theirs)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(3))
    expected.backward(upstream.double())
    with guarded():
        with Portable():
            actual = portable(ours)
        actual.backward(upstream)
    assert ours.grad is not None
    assert theirs.grad is not None
    return [actual, ours.grad], [expected, theirs.grad]


def assert_close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Compare tensors by their norms: the sums of products have no relative accuracy of their own."""
    for one, other in zip(actual, expected, strict=True):
        difference = float((one.detach().double() - other.detach()).norm())
        assert difference <= 2e-6 * float(other.detach().double().norm()) + 1e-12


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    torch.manual_seed(0)
    layer, channels = LAYERS[name]
    layer, reference = copy.deepcopy(layer), copy.deepcopy(layer).double()
    x = torch.randn(6, channels, 12, 12) * torch.rand(6, 1, 1, 1) * 3
    assert_close(*in_both(layer, reference, x))
    assert_close([p.grad for p in layer.parameters()], [p.grad for p in reference.parameters()])  # type: ignore[misc]
    assert_close([*layer.buffers()], [*reference.buffers()])
    layer.eval()
    reference.eval()
    for parameter in (*layer.parameters(), *reference.parameters()):
        parameter.grad = None
    assert_close(*in_both(layer, reference, x))


@pytest.mark.parametrize("name", networks.ACTIVATIONS)
def test_activations(name: str) -> None:
    layer = networks.make_activation(name).eval()  # RReLU draws slopes in training
    reference = copy.deepcopy(layer).double()
    x = torch.randn(64, 30, generator=torch.Generator().manual_seed(0)) * 3
    assert_close(*in_both(layer, reference, x))
    assert_close([p.grad for p in layer.parameters()], [p.grad for p in reference.parameters()])  # type: ignore[misc]


@pytest.mark.parametrize("inplace", [nn.SiLU, nn.Hardswish, nn.Hardsigmoid, nn.ReLU6, nn.ELU, nn.LeakyReLU])
def test_activations_in_place(inplace: Any) -> None:
    x = torch.randn(64, 30, generator=torch.Generator().manual_seed(0)) * 3
    layer, reference = inplace(inplace=True), inplace().double()
    assert_close(*in_both(lambda values: layer(values + 0), reference, x))


def test_rrelu_draws_a_slope_for_each_unit() -> None:
    torch.manual_seed(0)
    with guarded(), Portable():
        units = nn.RReLU()(-torch.ones(1000, 10))
    assert -1 / 3 <= float(units.min()) < -0.33
    assert -0.13 < float(units.max()) <= -1 / 8


WEIGHT = torch.tensor([0.5, 2.0, 0.0, 1.0, 1.5, 1.0, 3.0])
CASES: list[tuple[nn.Module, str]] = [
    (nn.CrossEntropyLoss(), "numbers"),
    (nn.CrossEntropyLoss(label_smoothing=0.1), "numbers"),
    (nn.CrossEntropyLoss(weight=WEIGHT), "numbers"),
    (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), "numbers"),
    (nn.CrossEntropyLoss(), "probabilities"),
    (nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1), "probabilities"),
    (nn.CrossEntropyLoss(reduction="none"), "numbers"),
    (nn.CrossEntropyLoss(reduction="sum", weight=WEIGHT), "numbers"),
    (nn.MultiMarginLoss(), "numbers"),
    (nn.MultiMarginLoss(p=2, margin=0.5, weight=WEIGHT), "numbers"),
    (nn.MSELoss(), "quantities"),
    (nn.L1Loss(), "quantities"),
    (nn.HuberLoss(delta=0.5), "quantities"),
    (nn.SmoothL1Loss(beta=0.3), "quantities"),
    (nn.SmoothL1Loss(beta=0.0), "quantities"),
]


@pytest.mark.parametrize(("loss", "kind"), CASES, ids=[f"{loss.__class__.__name__} {kind}" for loss, kind in CASES])
def test_losses(loss: nn.Module, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    targets = {
        "numbers": torch.randint(7, (20,), generator=generator),
        "probabilities": torch.rand(20, 7, generator=generator).softmax(1),
        "quantities": torch.randn(20, 7, generator=generator),
    }[kind]
    reference = copy.deepcopy(loss).double()
    theirs = targets if kind == "numbers" else targets.double()
    x = torch.randn(20, 7, generator=generator) * 2
    assert_close(*in_both(lambda outputs: loss(outputs, targets), lambda outputs: reference(outputs, theirs), x))


def test_every_loss_of_the_table_is_tested() -> None:
    assert {type(loss) for loss, _ in CASES} == {*losses.LOSSES.values()}


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.log_softmax(x, 1),
        lambda x: x.softmax(dim=0),
        lambda x: x.mean(),
        lambda x: x.mean(1, keepdim=True),
        lambda x: x.sum(-1),
        lambda x: (x * x.mean(1, keepdim=True)).tanh(),
        lambda x: x / (1 + x.abs().sum(0)),
        lambda x: (x.abs() + 1).sqrt() - x[:, :1],
    ],
    ids=["log_softmax", "softmax", "mean", "mean of rows", "sum", "product", "quotient", "square root"],
)
def test_functions_of_own_networks_and_losses(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 2
    assert_close(*in_both(function, function, x))


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu"])
def test_a_hidden_layer_in_one_step_gives_the_bits_of_its_parts(activation: str) -> None:
    torch.manual_seed(0)
    network = networks.build(
        "mlp", shape=(1, 4, 4), outputs=3, hidden=[8, 6], activation=activation, dropout=0.4
    ).train()
    in_turn = nn.Sequential(*network.layers)  # type: ignore[misc]
    images, gradients = torch.randn(10, 1, 4, 4), []
    for each in (network, in_turn):
        network.zero_grad()
        torch.manual_seed(1)
        with Portable():
            loss = functional.cross_entropy(each(images), torch.arange(10) % 3)
        loss.backward()
        gradients.append([float(loss.detach()), *[weight.grad for weight in network.parameters()]])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


def test_dropout_is_the_same_as_in_native_arithmetic() -> None:
    layer, units = QuickDropout(0.3).train(), torch.randn(50, 20)
    torch.manual_seed(0)
    expected = layer(units)
    torch.manual_seed(0)
    with guarded(), Portable():
        dropped = layer(units)
    assert torch.equal(dropped, expected)
