"""QuickDropout: the same mathematics as `torch.nn.Dropout`."""

import pytest
import torch
from torch import nn

from stages.lib.model import networks
from stages.lib.model.dropout import INT64_MIN, LANE, QuickDropout, use_quick_dropout


@pytest.mark.parametrize("p", [0.001, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_units_are_dropped_at_the_rate_and_the_others_scaled(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = QuickDropout(p)
    kept = layer(torch.ones(401, 2503, dtype=dtype))  # not a multiple of four units
    assert kept.dtype == dtype
    number = kept.numel()
    share = float((kept == 0).double().mean())
    assert abs(share - p) < 5 * (p * (1 - p) / number) ** 0.5 + 1 / 131_072
    values = kept[kept != 0].unique()
    assert len(values) == 1
    assert float(values) == pytest.approx(1 / (1 - p), rel=1e-4 if dtype != torch.bfloat16 else 1e-2)


def test_units_are_dropped_independently() -> None:
    """Of each other, also within the same 64 random bits, and of the previous step."""
    torch.manual_seed(0)
    layer = QuickDropout(0.5)
    first, second = (layer(torch.ones(1_000_000)) > 0 for _ in range(2))
    limit = 5 / 1_000_000**0.5
    assert abs(float((first == second).double().mean()) - 0.5) < limit / 2 * 2**0.5
    for distance in (1, 2, 3, 4, 5, 64):
        agree = float((first[distance:] == first[:-distance]).double().mean())
        assert abs(agree - 0.5) < limit / 2 * 2**0.5, distance
    by_lane = first.view(-1, 4).double().mean(0)
    assert (by_lane - 0.5).abs().max() < limit


def test_the_random_lanes_are_uniform() -> None:
    torch.manual_seed(0)
    random = torch.empty(1_000_000, dtype=torch.int64).random_(INT64_MIN, None).view(torch.int16)
    counts = torch.bincount(random.int() + LANE // 2, minlength=LANE)
    assert counts.min() > 0
    expected = len(random) / LANE
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - (LANE - 1)) < 5 * (2 * (LANE - 1)) ** 0.5  # five standard deviations


def test_gradients_are_scaled_by_the_mask() -> None:
    torch.manual_seed(0)
    units = torch.randn(50, 70, dtype=torch.float64, requires_grad=True)
    layer = QuickDropout(0.3)
    kept = layer(units)
    kept.sum().backward()
    assert units.grad is not None
    torch.testing.assert_close(units.grad, (kept / units).detach())


def test_nothing_is_dropped_in_evaluation_mode_or_at_probability_0() -> None:
    units = torch.randn(10, 10)
    assert torch.equal(QuickDropout(0.9).eval()(units), units)
    assert torch.equal(QuickDropout(0.0)(units), units)


def test_a_probability_near_one_keeps_one_unit_in_65_536() -> None:
    torch.manual_seed(0)
    kept = QuickDropout(0.999999)(torch.ones(1_000_000))
    assert kept.unique().tolist() == [0.0, 65_536.0]
    assert 1 <= int((kept > 0).sum()) < 40  # 15 are expected


def test_gradients_of_the_mlp_equal_those_of_its_formula() -> None:
    """With the masks that its layers drew."""
    torch.manual_seed(0)
    network = networks.build(
        "mlp", shape=(1, 6, 6), outputs=5, hidden=[9, 8], activation=["tanh", "sigmoid"], dropout=0.4
    ).double()
    masks: list[torch.Tensor] = []

    def record_mask(_layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        masks.append((output / inputs[0]).detach())

    for module in network.modules():
        if isinstance(module, QuickDropout):
            module.register_forward_hook(record_mask)
    images, targets = torch.randn(20, 1, 6, 6, dtype=torch.float64), torch.arange(20) % 5
    nn.functional.cross_entropy(network(images), targets).backward()
    first, second, last = (module for module in network.modules() if isinstance(module, nn.Linear))
    units = torch.tanh(images.flatten(1) @ first.weight.T + first.bias) * masks[0]
    units = torch.sigmoid(units @ second.weight.T + second.bias) * masks[1]
    loss = nn.functional.cross_entropy(units @ last.weight.T + last.bias, targets)
    expected = torch.autograd.grad(loss, list(network.parameters()))
    for weight, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient)


def test_every_plain_dropout_of_a_network_is_replaced() -> None:
    network = use_quick_dropout(nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.4))))
    kinds = [type(module) for module in network.modules()]
    assert nn.Dropout not in kinds
    assert QuickDropout in kinds
    assert nn.Dropout2d in kinds, "it drops channels, which QuickDropout does not"
    alexnet = networks.build("alexnet", shape=(3, 64, 64), outputs=3, hidden=[], activation="relu", dropout=0.0)
    assert sum(isinstance(module, QuickDropout) for module in alexnet.modules()) == 2
