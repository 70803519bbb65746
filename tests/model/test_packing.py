"""What one rank sends another."""

import math
import random

import pytest
import torch
from torch import Tensor

from stages.lib.model.packing import empty_tensors, pack, unpack


def value_of(draw: random.Random, depth: int = 3) -> object:
    """Make a value of random structure."""
    kind = draw.randrange(7 if depth else 5)
    if kind == 0:
        dtype = draw.choice([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bfloat16, torch.bool])
        return torch.randint(2, [draw.randrange(4) for _ in range(draw.randrange(3))]).to(dtype)
    if kind < 5:
        number = draw.random() * 10 ** draw.randrange(-300, 300)
        return [number, draw.randrange(1 << 70), None, draw.random() < 0.5][kind - 1]
    items = [value_of(draw, depth - 1) for _ in range(draw.randrange(4))]
    if kind == 5:
        return draw.choice([list, tuple])(items)
    return {draw.choice([number, str(number)]): item for number, item in enumerate(items)}


def equal(one: object, other: object) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(equal, one, other))
    return type(one) is type(other) and one == other


def test_a_value_arrives_as_it_was_sent() -> None:
    for seed in range(500):
        torch.manual_seed(seed)
        value = value_of(random.Random(seed))
        text, tensors = pack(value)
        received = empty_tensors(text)
        assert [(tensor.dtype, tensor.shape) for tensor in received] == [(each.dtype, each.shape) for each in tensors]
        for tensor, sent in zip(received, tensors, strict=True):
            tensor.copy_(sent)
        assert equal(unpack(text, received), value)
    assert math.isnan(unpack(*pack(math.nan)))


def test_the_state_of_an_optimizer_arrives() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    assert equal(unpack(*pack(optimizer.state_dict())), optimizer.state_dict())


def test_other_objects_are_not_sent() -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        pack({"a": object()})
