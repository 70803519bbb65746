"""A sample of every operation that the guard lets pass; as a program, prints a hash of each result.

Run on other processors' instructions, it has to print the same.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten
SHAPE = (37, 53)  # not a multiple of any vector


def numbers(seed: int, scale: float) -> Tensor:
    """Draw float32 numbers without a function that may differ."""
    whole = torch.empty(SHAPE, dtype=torch.int32).random_(0, 1 << 24, generator=torch.Generator().manual_seed(seed))
    return (whole.float() / (1 << 23) - 1) * scale


x, y, positive = numbers(0, 8.0), numbers(1, 3.0), numbers(2, 1.0).abs() + 0.01
rows, columns = torch.arange(0, 37, 3), torch.arange(53).flip(0).expand(37, 53)
whole_x, true = (x * 10).round().long(), x > y
generator = torch.Generator
image = x.view(1, 1, *SHAPE)

SAMPLES: dict[str, Callable[[], Any]] = {
    # rounded
    "abs": lambda: x.abs(),
    "add": lambda: (x + y, x + 0.1, x + y[0], torch.add(x, y, alpha=-1)),
    "addcdiv": lambda: (torch.addcdiv(x, y, positive, value=-1), torch.addcdiv(x, y, positive)),
    "ceil": lambda: x.ceil(),
    "clamp": lambda: x.clamp(-1.1, 2.3),
    "clamp_max": lambda: x.clamp_max(2.3),
    "clamp_min": lambda: x.clamp_min(-1.1),
    "div": lambda: (x / y, x / 0.3, x / positive[0], whole_x / 7),
    "floor": lambda: x.floor(),
    "hardtanh": lambda: functional.hardtanh(x, -1.1, 2.3),
    "leaky_relu": lambda: functional.leaky_relu(x, 0.01),
    "maximum": lambda: torch.maximum(x, y),
    "minimum": lambda: torch.minimum(x, y),
    "mul": lambda: (x * y, x * 0.1, x * y[:, :1], x.double() * y),
    "neg": lambda: -x,
    "reciprocal": lambda: (y.reciprocal(), y.double().reciprocal()),
    "relu": lambda: x.relu(),
    "round": lambda: (x.round(), x.double().round()),
    "rsub": lambda: torch.rsub(x, 1.1),
    "sgn": lambda: x.sgn(),
    "sign": lambda: x.sign(),
    "sub": lambda: (x - y, x - 0.1, x - y[0]),
    "trunc": lambda: x.trunc(),
    "hardtanh_backward": lambda: aten.hardtanh_backward(y, x, -1.1, 2.3),
    "leaky_relu_backward": lambda: aten.leaky_relu_backward(y, x, 0.01, False),
    "threshold_backward": lambda: aten.threshold_backward(y, x, 0),
    # compared
    "all": lambda: true.all(1),
    "amax": lambda: (x.amax(1), x.amax()),
    "amin": lambda: (x.amin(0), x.amin()),
    "aminmax": lambda: x.aminmax(),
    "any": lambda: true.any(1),
    "argmax": lambda: x.round().argmax(1),
    "argmin": lambda: x.round().argmin(1),
    "bitwise_and": lambda: whole_x & 6,
    "bitwise_not": lambda: ~true,
    "bitwise_or": lambda: whole_x | 6,
    "eq": lambda: x.round() == y.round(),
    "ge": lambda: x >= y,
    "gt": lambda: x > 0.1,
    "isnan": lambda: (x / (x.round() * 0)).isnan(),
    "le": lambda: x <= y,
    "logical_and": lambda: torch.logical_and(true, x > 0),
    "logical_not": lambda: torch.logical_not(true),
    "logical_or": lambda: torch.logical_or(true, x > 0),
    "lt": lambda: x < y,
    "masked_fill": lambda: x.masked_fill(true, 0.1),
    "max": lambda: (*x.round().max(1), x.max()),
    "min": lambda: (*x.round().min(1), x.min()),
    "ne": lambda: x.round() != y.round(),
    "nonzero": lambda: true.nonzero(),
    "sort": lambda: x.round().sort(dim=1, stable=True),
    "topk": lambda: x.topk(5, 1),
    "where": lambda: torch.where(true, x, 0.1),
    # moved
    "_reshape_alias": lambda: aten._reshape_alias(x, [53, 37], [37, 1]),
    "_to_copy": lambda: (x.double(), (x.double() / 3).float(), x.long(), whole_x.float()),
    "_unsafe_view": lambda: aten._unsafe_view(x, [53, 37]),
    "alias": lambda: aten.alias(x),
    "as_strided": lambda: x.as_strided((10, 10), (53, 2)),
    "cat": lambda: torch.cat([x, y]),
    "chunk": lambda: x.chunk(3),
    "clone": lambda: x.clone(),
    "constant_pad_nd": lambda: functional.pad(x, [1, 2], value=0.1),
    "contiguous": lambda: x.t().contiguous(),
    "copy": lambda: torch.empty(SHAPE, dtype=torch.float64).copy_(x),
    "detach": lambda: x.detach(),
    "expand": lambda: x[:1].expand(37, 53),
    "expand_as": lambda: x[:1].expand_as(y),
    "flatten": lambda: x.flatten(),
    "flip": lambda: x.flip(0, 1),
    "gather": lambda: x.gather(1, columns),
    "index": lambda: x[rows, rows],
    "index_select": lambda: x.index_select(0, rows),
    "lift_fresh": lambda: torch.tensor([0.1, 0.2]),
    "movedim": lambda: x.movedim(0, 1),
    "permute": lambda: x.permute(1, 0),
    "reflection_pad2d": lambda: functional.pad(image, [1, 2, 3, 4], mode="reflect"),
    "repeat": lambda: x.repeat(2, 3),
    "replication_pad2d": lambda: functional.pad(image, [1, 2, 3, 4], mode="replicate"),
    "reshape": lambda: x.t().reshape(-1),
    "roll": lambda: x.roll(5, 1),
    "scatter": lambda: torch.zeros(SHAPE).scatter_(1, columns, x),
    "select": lambda: x[3],
    "select_backward": lambda: aten.select_backward(x[0], [37, 53], 0, 3),
    "slice": lambda: x[3:7],
    "slice_backward": lambda: aten.slice_backward(x, [60, 53], 0, 3, 40, 1),
    "split": lambda: x.split(10),
    "split_with_sizes": lambda: x.split([30, 7]),
    "squeeze": lambda: x[:1].squeeze(0),
    "stack": lambda: torch.stack([x, y]),
    "t": lambda: x.t(),
    "to": lambda: x.to(torch.float64),
    "transpose": lambda: x.transpose(0, 1),
    "unbind": lambda: x.unbind(0),
    "unfold": lambda: x.unfold(1, 5, 3),
    "unsqueeze": lambda: x.unsqueeze(1),
    "view": lambda: x.view(53, 37),
    "view_as": lambda: x.view_as(y),
    # made
    "_local_scalar_dense": lambda: torch.tensor(x[0, 0].item()),
    "arange": lambda: torch.arange(0, 10, 0.25),
    "empty": lambda: torch.empty(3).shape,
    "empty_like": lambda: torch.empty_like(x).shape,
    "empty_strided": lambda: torch.empty_strided((3, 2), (2, 1)).shape,
    "eye": lambda: torch.eye(5),
    "fill": lambda: torch.empty(5).fill_(0.1),
    "full": lambda: torch.full((5,), 0.1),
    "full_like": lambda: torch.full_like(x, 0.1),
    "item": lambda: torch.tensor(x[0, 0].item()),
    "new_empty": lambda: x.new_empty(3).shape,
    "new_empty_strided": lambda: x.new_empty_strided((3, 2), (2, 1)).shape,
    "new_full": lambda: x.new_full((3,), 0.1),
    "new_ones": lambda: x.new_ones(3),
    "new_zeros": lambda: x.new_zeros(3),
    "one_hot": lambda: functional.one_hot(rows),
    "ones": lambda: torch.ones(3),
    "ones_like": lambda: torch.ones_like(x),
    "rand": lambda: torch.rand(1003, generator=generator().manual_seed(0)),
    "randint": lambda: torch.randint(1000, (1003,), generator=generator().manual_seed(0)),
    "random": lambda: torch.empty(1003, dtype=torch.int64).random_(generator=generator().manual_seed(0)),
    "randperm": lambda: torch.randperm(1003, generator=generator().manual_seed(0)),
    "scalar_tensor": lambda: aten.scalar_tensor(0.1),
    "zero": lambda: torch.ones(3).zero_(),
    "zeros": lambda: torch.zeros(3),
    "zeros_like": lambda: torch.zeros_like(x),
    # of whole numbers
    "bincount": lambda: whole_x.flatten().abs().bincount(),
    "cumsum": lambda: whole_x.cumsum(1),
    "index_add": lambda: torch.zeros(37, 53, dtype=torch.int64).index_add_(0, rows, whole_x[rows]),
    "prod": lambda: whole_x.sign().prod(1),
    "scatter_add": lambda: torch.zeros(37, 53, dtype=torch.int64).scatter_add_(1, columns, whole_x),
    "sum": lambda: (whole_x.sum(), true.sum(1)),
}


def hashed(result: Any) -> str:
    """Return a hash of the bytes of a result: one tensor, or several."""
    parts = [result] if isinstance(result, Tensor) else [*result]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.contiguous().numpy().tobytes() if isinstance(part, Tensor) else str(part).encode())
    return digest.hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    print(json.dumps({name: hashed(sample()) for name, sample in SAMPLES.items()}))
