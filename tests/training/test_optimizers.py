"""Optimizers by name."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.lib.core.errors import UserError
from stages.lib.training import optimizers
from stages.train import train_step

RATES = {"Adadelta": 1.0, "LBFGS": 0.5, "ASGD": 0.1, "Adafactor": 0.1}


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    images, targets = torch.randn(32, 4), torch.arange(32) % 3
    network = torch.nn.Linear(4, 3)
    optimizer = optimizers.build(
        name, network.parameters(), lr=RATES.get(name, 0.05), weight_decay=0.0, momentum=0.0, arguments={}
    )
    before = float(cross_entropy(network(images), targets).detach())
    for _ in range(20):
        train_step(network, torch.nn.CrossEntropyLoss(), optimizer, images, targets, clip_norm=None)
    assert float(cross_entropy(network(images), targets).detach()) < before


def test_all_optimizers_of_torch_that_can_train_a_network_are_listed() -> None:
    assert set(optimizers.OPTIMIZERS) == {
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "NAdam", "RAdam"),
        *("RMSprop", "Rprop", "SGD", "Muon"),
    }


def test_options_reach_the_optimizer() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    sgd = optimizers.build("SGD", weights, lr=0.1, weight_decay=0.01, momentum=0.9, arguments={"nesterov": True})
    assert sgd.param_groups[0].items() >= {"lr": 0.1, "weight_decay": 0.01, "momentum": 0.9, "nesterov": True}.items()
    adamw = optimizers.build("AdamW", weights, lr=0.1, weight_decay=0.0, momentum=0.0, arguments={})
    assert adamw.param_groups[0]["weight_decay"] == 0.0, "not the default of torch, 0.01"


@pytest.mark.parametrize(
    "arguments", [{"betas": 3}, {"betas": [0.9, 2]}, {"eps": "small"}, {"betas": [0.9]}, {"betas": [0.9, 0.98, 0.99]}]
)
def test_a_bad_value_of_an_option_is_refused(arguments: dict[str, object]) -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(UserError, match=r"params.yaml: Adam rejects .*change that option"):
        optimizers.build("Adam", weights, lr=0.1, weight_decay=0.0, momentum=0.0, arguments=arguments)


def test_a_value_that_torch_rejects_at_the_first_step_is_refused_before() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    arguments = {"line_search_fn": "wolf"}
    with pytest.raises(UserError, match=r"params.yaml: LBFGS rejects .*strong_wolfe"):
        optimizers.build("LBFGS", weights, lr=0.1, weight_decay=0.0, momentum=0.0, arguments=arguments)


def test_gradients_are_clipped() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(4, 3)
    optimizer = optimizers.build("SGD", network.parameters(), lr=1.0, weight_decay=0, momentum=0, arguments={})
    before = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    train_step(
        network,
        torch.nn.CrossEntropyLoss(),
        optimizer,
        torch.randn(8, 4) * 100,
        torch.zeros(8, dtype=torch.long),
        clip_norm=0.01,
    )
    change = torch.nn.utils.parameters_to_vector(network.parameters()).detach() - before
    torch.testing.assert_close(change.norm(), torch.tensor(0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["Adam", "SGD", "LBFGS", "Adadelta"])
def test_the_plain_step_gives_the_weights_of_the_wrapped_step(name: str) -> None:
    """A new version of torch may do something else in its wrappers."""
    images, targets = torch.randn(32, 5, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 3

    def weights_after_steps(wrapped: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = torch.nn.Linear(5, 3)
        optimizer = optimizers.build(name, network.parameters(), lr=0.1, weight_decay=0, momentum=0, arguments={})

        def closure() -> float:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images), targets)
            loss.backward()
            return float(loss.detach())

        step = optimizer.step if wrapped else optimizers.plain_step(optimizer)
        for _ in range(5):
            step(closure)
        return [weight.detach() for weight in network.parameters()]

    for plain, wrapped in zip(weights_after_steps(False), weights_after_steps(True), strict=True):
        assert torch.equal(plain, wrapped)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_an_optimizer_follows_a_schedule_or_has_step_sizes_of_its_own(name: str) -> None:
    """After the first steps at one rate, two rates give different weights, or params.yaml allows no schedule."""
    weights = []
    for rate in (0.01, 0.05):
        weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = optimizers.build(name, [weight], lr=0.01, weight_decay=0, momentum=0, arguments={})
        for step in range(4):
            for group in optimizer.param_groups:
                group["lr"] = 0.01 if step < 2 else rate

            def closure(weight: torch.nn.Parameter = weight) -> float:
                with torch.enable_grad():
                    loss = ((weight - 3) ** 2).sum()
                    (weight.grad,) = torch.autograd.grad(loss, weight)
                return float(loss.detach())

            optimizers.plain_step(optimizer)(closure)
        weights.append(weight.detach())
    assert torch.equal(*weights) == (name in optimizers.OWN_STEP_SIZES)
