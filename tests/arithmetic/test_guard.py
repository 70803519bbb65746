"""The guard: what it lets pass is equal on other instructions; what it refuses, it names."""

import json
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from stages.lib.arithmetic import guard
from stages.lib.arithmetic.guard import guarded
from stages.lib.arithmetic.mode import Portable
from stages.lib.core.errors import UserError
from tests.arithmetic.operations import SAMPLES, hashed
from tests.conftest import ROOT
from tests.handover import SIMPLEST


def test_every_operation_that_passes_has_a_sample() -> None:
    assert {*SAMPLES} == guard.EQUAL | guard.OF_WHOLE_NUMBERS


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_pass(name: str) -> None:
    with guarded():
        SAMPLES[name]()


@pytest.mark.parametrize(("variables", "threads"), [(SIMPLEST, 1), ({}, 4)], ids=["simplest instructions", "threads"])
def test_what_passes_is_equal_in_other_surroundings(variables: dict[str, str], threads: int) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.arithmetic.operations", str(threads)],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == {name: hashed(sample()) for name, sample in SAMPLES.items()}


class Own(nn.Module):
    """A network with a layer that is not portable."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.own = Layer(function)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.own(self.first(x))
        return result


class Layer(nn.Module):
    """A layer that applies a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("atan", torch.atan),
        ("mm", lambda x: x @ x.T),
        ("add", lambda x: torch.add(x, x, alpha=0.1)),
        ("cumsum", lambda x: x.cumsum(1)),
        ("std", lambda x: x.std(1)),
        ("sum", lambda x: x * torch.ones(4, requires_grad=True).expand(3, 4)),  # in the backward pass only
    ],
)
def test_other_operations_are_refused_with_their_layer(operation: str, function: Callable[[Tensor], Tensor]) -> None:
    network = Own(function)
    with (
        pytest.raises(UserError, match=rf"portable has no `{operation}` \(layer Layer own\), whose last bits depend"),
        guarded(network),
    ):
        with Portable():
            loss = network(torch.randn(3, 4)).mean()
        loss.backward()
    torch.ones(2).sum()  # the guard is off again


def test_a_sum_of_floats_outside_of_a_layer_is_refused() -> None:
    with pytest.raises(UserError, match="portable has no `sum`, whose last bits"), guarded():
        torch.ones(2).sum()


def test_processors_that_flush_subnormals_are_refused() -> None:
    code = (
        "import torch; from stages.lib.model import compute; from stages.lib.core.errors import UserError\n"
        "assert torch.set_flush_denormal(True)\n"
        "try: compute.prepare(1, 'portable')\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("this processor is set to take the smallest numbers (subnormal ones) for 0")
