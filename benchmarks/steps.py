"""Time a training step and its parts, and an epoch with and without loading batches, in one process."""

import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.timing import Timing, per_call, time_alternately
from stages.lib.arithmetic.mode import NATIVE, PORTABLE, functions_of
from stages.lib.model import compute, networks, tensors
from stages.lib.training import optimizers
from stages.lib.training.batches import ShuffledBatches
from stages.train import train_step

HIDDEN = [96, 256]
MEMORY = 1 << 28  # bytes of images


def parts_of_a_step(batch_size: int, rounds: int) -> dict[str, Timing]:
    """Time our step, its eight matrix products, its optimizer step, and scikit-learn's step without dropout."""
    compute.prepare(1, NATIVE)
    network, loss, optimizer = _make()
    images, targets = _batch(batch_size)
    inputs = [images.flatten(1), torch.randn(batch_size, HIDDEN[0]), torch.randn(batch_size, HIDDEN[1])]
    outputs = [inputs[1], inputs[2], torch.randn(batch_size, 10)]
    weights = [layer.weight.detach() for layer in network.modules() if isinstance(layer, nn.Linear)]

    def products() -> None:
        for units, weight in zip(inputs, weights, strict=True):
            units @ weight.T
        for number in (2, 1, 0):
            outputs[number].T @ inputs[number]
            if number:
                outputs[number] @ weights[number]

    train_step(network, loss, optimizer, images, targets, None)  # sets the gradients
    step = optimizers.plain_step(optimizer)
    timed: dict[str, Callable[[], float]] = {
        "ours": per_call(lambda: train_step(network, loss, optimizer, images, targets, None), 300),
        "matrix products": per_call(products, 300),
        "optimizer": per_call(lambda: step(lambda: 0.0), 300),
        "scikit-learn": per_call(_scikit_learn(images, targets), 300),
    }
    with warnings.catch_warnings(action="ignore"):
        return time_alternately(timed, rounds)


def both_arithmetics(model: str, batch_size: int, rounds: int) -> dict[str, Timing]:
    """Time a step in portable and in native arithmetic, and scikit-learn's step of an mlp without dropout."""
    compute.prepare(1, PORTABLE)
    images, targets = _batch(batch_size)
    calls = 300 if model == "mlp" else 30
    timed: dict[str, Callable[[], float]] = {}
    for arithmetic in (PORTABLE, NATIVE):
        parts, functions = _make(model, arithmetic), functions_of(arithmetic)
        timed[arithmetic] = per_call(partial(train_step, *parts, images, targets, None, functions), calls)
    timed["scikit-learn"] = per_call(_scikit_learn(images, targets), calls)
    with warnings.catch_warnings(action="ignore"):
        return time_alternately(timed, rounds)


def _batch(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 1, 28, 28), torch.arange(rows) % 10


def _scikit_learn(images: Tensor, targets: Tensor) -> Callable[[], object]:
    from sklearn.neural_network import MLPClassifier

    peer = MLPClassifier(HIDDEN, batch_size=len(images), solver="adam", activation="tanh", alpha=0.0)
    rows, numbers = images.flatten(1).numpy(), targets.numpy()
    peer.partial_fit(rows, numbers, classes=range(10))
    return lambda: peer.partial_fit(rows, numbers)


def feeding(path: Path, batch_size: int, rounds: int) -> dict[str, Timing]:
    """Time an epoch over the tensors, and as many steps on one batch."""
    compute.prepare(1, NATIVE)
    network, loss, optimizer = _make()
    split = tensors.read(path, MEMORY)
    batches = ShuffledBatches(split, batch_size, seed=0, memory=MEMORY)
    standardize = tensors.Standardize(split.description)
    steps = len(split) // batch_size  # whole batches
    one_batch = next(iter(batches))

    def epoch(source: Iterator[tuple[Tensor, Tensor]]) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            images, targets = next(source)
            train_step(network, loss, optimizer, standardize(images), targets, None)
        return time.perf_counter() - started

    return time_alternately(
        {"loaded": lambda: epoch(iter(batches)), "one batch": lambda: epoch(iter(lambda: one_batch, None))}, rounds
    )


def _make(model: str = "mlp", arithmetic: str = NATIVE) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer]:
    network = networks.build(
        model, shape=(1, 28, 28), outputs=10, hidden=HIDDEN, activation=["tanh", "sigmoid"], dropout=0.2
    )
    optimizer = optimizers.build(
        "Adam",
        network.parameters(),
        lr=0.001,
        weight_decay=0.0,
        momentum=0.0,
        arguments={},
        arithmetic=arithmetic,
    )
    return network.train(), nn.CrossEntropyLoss(), optimizer
