"""What one rank sends another: JSON and tensors. Nothing is unpickled.

Numbers, text, None and tensors, in lists, tuples and dicts with keys of text or whole numbers.
"""

import json
from typing import Any

import torch
from torch import Tensor


def pack(value: Any) -> tuple[str, list[Tensor]]:
    """Return a value as JSON, in which its tensors are described, and the tensors in their order.

    Raises:
        TypeError: it holds something else.
    """
    tensors: list[Tensor] = []

    def described(part: Any) -> Any:
        if isinstance(part, Tensor):
            tensors.append(part.detach())
            return {"tensor": [str(part.dtype).removeprefix("torch."), list(part.shape)]}
        if isinstance(part, dict):
            return {"dict": [[key, described(item)] for key, item in part.items()]}
        if isinstance(part, list | tuple):
            return {type(part).__name__: [described(item) for item in part]}
        return part

    return json.dumps(described(value)), tensors


def empty_tensors(text: str) -> list[Tensor]:
    """Return uninitialized tensors of the types and shapes that a packed value describes, to receive them."""
    tensors: list[Tensor] = []

    def collect(part: dict[str, Any]) -> dict[str, Any]:
        if "tensor" in part:
            dtype, shape = part["tensor"]
            tensors.append(torch.empty(shape, dtype=getattr(torch, dtype)))
        return part

    json.loads(text, object_hook=collect)
    return tensors


def unpack(text: str, tensors: list[Tensor]) -> Any:
    """Return the value that `pack` packed."""
    following = iter(tensors)

    def value(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        ((kind, content),) = part.items()
        if kind == "tensor":
            return next(following)
        if kind == "dict":
            return {key: value(item) for key, item in content}
        return (list if kind == "list" else tuple)(value(item) for item in content)

    return value(json.loads(text))
