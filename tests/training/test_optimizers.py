"""Optimizers by name."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.lib.core.errors import UserError
from stages.lib.training import optimizers
from stages.train import train_step

RATES = {"Adadelta": 1.0, "LBFGS": 0.5, "ASGD": 0.1, "Adafactor": 0.1}


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_trains(name: str) -> None:
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


def test_the_table_has_all_of_torch_that_can_train_alone() -> None:
    assert set(optimizers.OPTIMIZERS) == {
        *("ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "LBFGS", "NAdam", "RAdam"),
        *("RMSprop", "Rprop", "SGD"),
    }


def test_options_reach_the_optimizer() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    group = optimizers.build(
        "SGD", weights, lr=0.1, weight_decay=0.01, momentum=0.9, arguments={"nesterov": True}
    ).param_groups[0]
    assert (group["lr"], group["weight_decay"], group["momentum"], group["nesterov"]) == (0.1, 0.01, 0.9, True)
    assert optimizers.build(
        "AdamW", weights, lr=0.1, weight_decay=0.0, momentum=0.0, arguments={}
    ).param_groups[0]["weight_decay"] == 0.0  # fmt: skip


@pytest.mark.parametrize(
    "arguments", [{"betas": 3}, {"betas": [0.9, 2]}, {"eps": "small"}, {"betas": [0.9]}, {"betas": [0.9, 0.98, 0.99]}]
)
def test_a_bad_value_of_an_option_is_refused(arguments: dict[str, object]) -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    with pytest.raises(UserError, match=r"params.yaml: Adam rejects .*change that option"):
        optimizers.build("Adam", weights, lr=0.1, weight_decay=0.0, momentum=0.0, arguments=arguments)


def test_a_value_that_only_a_step_refuses_is_refused_before() -> None:
    weights = [torch.nn.Parameter(torch.zeros(2))]
    arguments = {"line_search_fn": "wolf"}
    with pytest.raises(UserError, match=r"params.yaml: LBFGS rejects .*strong_wolfe"):
        optimizers.build("LBFGS", weights, lr=0.1, weight_decay=0.0, momentum=0.0, arguments=arguments)


def test_gradients_are_clipped() -> None:
    network = torch.nn.Linear(4, 3)
    optimizer = optimizers.build("SGD", network.parameters(), lr=1.0, weight_decay=0, momentum=0, arguments={})
    before = [weight.detach().clone() for weight in network.parameters()]
    train_step(
        network,
        torch.nn.CrossEntropyLoss(),
        optimizer,
        torch.randn(8, 4) * 100,
        torch.zeros(8, dtype=torch.long),
        clip_norm=0.01,
    )
    moved = torch.cat(
        [(weight.detach() - old).flatten() for weight, old in zip(network.parameters(), before, strict=True)]
    )
    torch.testing.assert_close(moved.norm(), torch.tensor(0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", ["Adam", "SGD", "LBFGS", "Adadelta"])
def test_the_step_without_wrappers_gives_the_weights_of_the_wrapped_one(name: str) -> None:
    """torch may change what its wrappers do."""
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
