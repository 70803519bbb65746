"""Muon: orthogonal steps for matrices and filters, AdamW for all other weights."""

import copy

import pytest
import torch
from torch import nn

from stages.lib.training import optimizers
from stages.lib.training.muon import RMS, orthogonal
from stages.train import train_step


@pytest.mark.parametrize("shape", [(8, 30), (30, 8), (12, 12)])
def test_singular_values_become_about_1_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    singular = torch.diag(u.T @ orthogonal(matrix, 5) @ v.T)
    assert 0.5 < float(singular.min()) <= float(singular.max()) < 1.3


def test_hidden_layers_take_orthogonal_steps_and_the_others_those_of_adamw() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), nn.Linear(12, 6), nn.Tanh(), nn.Linear(6, 4))
    reference = copy.deepcopy(network)
    images, targets = torch.randn(8, 2, 3, 3), torch.arange(8) % 4
    for name, each in (("Muon", network), ("AdamW", reference)):
        optimizer = optimizers.build(
            name, each.parameters(), lr=0.01, weight_decay=0.1, momentum=0.9 if name == "Muon" else 0.0, arguments={}
        )
        before = {key: weight.detach().clone() for key, weight in each.named_parameters()}
        train_step(each, nn.CrossEntropyLoss(), optimizer, images, targets, None)
    for key, weight in network.named_parameters():
        if key in ("0.weight", "2.weight"):
            step = (before[key] * (1 - 0.01 * 0.1) - weight.detach()).flatten(1)
            assert 0.01 * RMS / 2 < float(step.square().mean().sqrt()) < 0.01 * RMS * 2, "as long as AdamW's"
        else:
            assert torch.equal(weight, reference.get_parameter(key))
