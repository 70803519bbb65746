"""The guard: it refuses operations that are not equal on every processor.

Under it, every operation that reaches PyTorch's kernels has to be in EQUAL: IEEE 754 fixes its result, or it only moves
numbers. The functions of this package use others as well, on numbers for which their order does not matter: they are
marked as `trusted`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode

from stages.lib.core.errors import UserError

F = TypeVar("F", bound=Callable[..., Any])

# Operations of ATen, without the underscore of those in place. Tests compare each on several processors' instructions.
ROUNDED = """
    abs add addcdiv ceil clamp clamp_max clamp_min div floor hardtanh leaky_relu maximum minimum mul neg reciprocal relu
    round rsub sgn sign sub trunc
    hardtanh_backward leaky_relu_backward threshold_backward
"""
COMPARED = """
    all amax amin aminmax any argmax argmin bitwise_and bitwise_not bitwise_or eq ge gt isnan le logical_and logical_not
    logical_or lt masked_fill max min ne nonzero sort topk where
"""
MOVED = """
    _reshape_alias _to_copy _unsafe_view alias as_strided cat chunk clone constant_pad_nd contiguous copy detach expand
    expand_as flatten flip gather index index_select lift_fresh movedim permute reflection_pad2d repeat
    replication_pad2d reshape roll scatter select select_backward slice slice_backward split split_with_sizes squeeze
    stack t to transpose unbind unfold unsqueeze view view_as
"""
MADE = """
    _local_scalar_dense arange empty empty_like empty_strided eye fill full full_like new_empty new_empty_strided
    item new_full new_ones new_zeros one_hot ones ones_like rand randint random randperm scalar_tensor zero zeros
    zeros_like
"""
EQUAL = {*ROUNDED.split(), *COMPARED.split(), *MOVED.split(), *MADE.split()}
OF_WHOLE_NUMBERS = {"bincount", "cumsum", "index_add", "prod", "scatter_add", "sum"}  # equal for whole numbers only
# With another factor than 1 or -1 there are a product and a sum, which some processors round once.
WITH_FACTOR = {"add": "alpha", "addcdiv": "value", "rsub": "alpha", "sub": "alpha"}

_active: "Guard | None" = None


class NotPortable(Exception):
    """An operation that is not equal on every processor, and the layer that it belongs to."""


class Guard(TorchDispatchMode):
    """Refuses operations whose results depend on the processor."""

    def __init__(self) -> None:
        super().__init__()
        self.suspended = 0
        self.layers: list[str] = []  # whose forward pass is running, outermost first

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep torch from wrapping the next method for its compiler, whose import takes more than a second."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.suspended and not equal(func, args, kwargs or {}):
            node: Any = torch._C._current_autograd_node()  # None in the forward pass
            layer = node.metadata.get("layer", "") if node else self.layers[-1] if self.layers else ""
            raise NotPortable(operation_of(func), layer)
        return func(*args, **(kwargs or {}))


@contextmanager
def guarded(network: nn.Module | None = None) -> Iterator[None]:
    """Refuse operations that are not equal on every processor, as long as this context lasts.

    Args:
        network: whose layers the message names.

    Raises:
        UserError: there was one.
    """
    global _active
    names = {module: name for name, module in network.named_modules()} if network else {}
    guard = Guard()

    def enter(module: nn.Module, _inputs: Any) -> None:
        guard.layers.append(f"{type(module).__name__} {names.get(module, '')}".strip())

    def leave(_module: nn.Module, _inputs: Any, outputs: Any) -> None:
        layer = guard.layers.pop()
        nodes: list[Any] = [outputs.grad_fn] if isinstance(outputs, Tensor) else []
        while nodes:  # the nodes of the backward pass that this layer has added
            node = nodes.pop()
            if node is not None and "layer" not in node.metadata:
                node.metadata["layer"] = layer
                nodes += [following for following, _ in node.next_functions]

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    _active = guard
    try:
        with guard:
            yield
    except NotPortable as error:
        operation, layer = error.args
        raise UserError(
            f"params.yaml: arithmetic: portable has no `{operation}`{f' (layer {layer})' if layer else ''}, whose last "
            "bits depend on the processor; set arithmetic to native, or see docs/portable.md for what to use instead"
        ) from error
    finally:
        _active = None
        for hook in hooks:
            hook.remove()


def equal(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation gives the same bits on every processor."""
    name = operation_of(func)
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if func.namespace == "torchvision" and not tensors:
        return True  # a question about its build, when it is imported
    if name in OF_WHOLE_NUMBERS:
        return not any(tensor.is_floating_point() for tensor in tensors)
    if name in WITH_FACTOR and abs(kwargs.get(WITH_FACTOR[name], 1)) != 1:
        return False
    return name in EQUAL


def operation_of(func: Any) -> str:
    """Return the name of an operation: of `aten.add_.Tensor`, "add"."""
    name: str = func.overloadpacket.__name__
    return name if name.endswith("__") else name.removesuffix("_")


def trusted(function: F) -> F:
    """Mark a function whose results are equal everywhere, though the guard does not know its operations."""

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        guard = _active
        if guard is None:
            return function(*args, **kwargs)
        guard.suspended += 1
        try:
            return function(*args, **kwargs)
        finally:
            guard.suspended -= 1

    return call  # type: ignore[return-value]
