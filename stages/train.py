"""Stage 4, train: data/tensors/{train,val} -> models/

    python -m stages.train

In:  the training and validation tensors; the test split is never opened.
Out: models/model.safetensors and models/model.json, the weights of the epoch that did best on val and all it takes to
     use them; reports/train.csv, a row per epoch; reports/train.json, how the training ended.
An interrupted training goes on from its last saved step, and ends with the bits of an uninterrupted one. It is saved
behind every epoch, once a minute, and when SIGINT or SIGTERM ends it.
"""

from stages.lib.stage import UserError, reason, run, signals_held

# isort: split

import copy
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn
from tqdm import tqdm

from stages.lib import augmentation, checkpoint, compute, losses, model_file, networks, optimizers, tensors
from stages.lib.batches import ShuffledBatches, derived_seed, loader
from stages.lib.files import replacing, write_text
from stages.lib.inference import logits_of
from stages.lib.parameters import StageParameters, load
from stages.lib.schedules import SCHEDULES, learning_rate

TRAIN = Path("data/tensors/train.safetensors")
VAL = Path("data/tensors/val.safetensors")
MODELS = Path("models")
CURVES = Path("reports/train.csv")
SUMMARY = Path("reports/train.json")
SAVE_EVERY = 60.0  # seconds between two states within an epoch


class Parameters(StageParameters):
    """What train reads of params.yaml: every hyperparameter."""

    model: str = Field(
        description="the network: of stages/lib/networks.py, or of torchvision",
        json_schema_extra={"enum": [*networks.NAMES]},
    )
    hidden: list[int] = Field(
        max_length=64,
        description="widths of the hidden layers, in units",
        json_schema_extra={"items": {"type": "integer", "minimum": 1, "maximum": 1_000_000}},
    )
    activation: str | list[str] = Field(
        description="activation of torch.nn in lower case: one name, or one per hidden layer",
        json_schema_extra={
            "anyOf": [
                {"type": "string", "enum": [*sorted(networks.ACTIVATIONS)]},
                {"type": "array", "items": {"type": "string", "enum": [*sorted(networks.ACTIVATIONS)]}},
            ]
        },
    )
    dropout: float = Field(ge=0, lt=1, description="probability that a hidden unit is left out of a training step")
    augmentation: dict[str, Any] = Field(description="changes of the training images, by name")
    loss: str = Field(
        description="loss of torch.nn, or of stages/lib/losses.py", json_schema_extra={"enum": [*losses.LOSSES]}
    )
    loss_args: dict[str, Any] = Field(description="options of the loss, by name; weight: balanced for uneven classes")
    optimizer: str = Field(description="class of torch.optim", json_schema_extra={"enum": [*optimizers.OPTIMIZERS]})
    lr: float = Field(gt=0, description="highest learning rate, per step")
    weight_decay: float = Field(ge=0, description="weight decay, per step; 0 for none")
    momentum: float = Field(ge=0, lt=1, description="momentum, per step, for optimizers that take it; 0 for none")
    optimizer_args: dict[str, Any] = Field(description="any other options of the optimizer, by name")
    schedule: str = Field(description="course of the learning rate", json_schema_extra={"enum": [*SCHEDULES]})
    warmup: float | None = Field(
        ge=0, lt=1, description="share of all steps in which the learning rate rises; null: the schedule's own"
    )
    batch_size: int = Field(ge=1, le=10**9, description="images per step")
    epochs: int = Field(ge=1, le=10**6, description="passes over the training split, at most")
    patience: int | None = Field(
        ge=1, le=10**6, description="epochs without a lower val loss before it ends; null: never"
    )
    clip_norm: float | None = Field(gt=0, description="largest L2 norm of a step's gradient; null: no limit")
    seed: int = Field(ge=0, lt=2**32, description="seed of first weights, shuffling and dropout")
    threads: int = Field(ge=1, le=1024, description="CPU threads; another number may change the last bits")


def main() -> None:
    # --- What to train, on what ---
    parameters = load(Parameters)
    device = compute.prepare(parameters.threads)
    train, val = tensors.read(TRAIN), tensors.read(VAL)
    architecture = model_file.Architecture(**parameters.model_dump(include=set(model_file.Architecture.model_fields)))

    # --- Model, optimizer, batches and learning rates ---
    compute.seed(torch.device("cpu"), derived_seed(parameters.seed, "weights", 0))
    try:
        network = model_file.build(architecture, train.description).to(device)
    except RuntimeError as error:  # torch says no more of a failed allocation
        raise UserError(f"params.yaml: hidden: this network does not fit into memory ({reason(error)})") from error
    loss_function = losses.build(
        parameters.loss, parameters.loss_args, train.targets, len(train.description.classes)
    ).to(device)
    optimizer = optimizers.build(
        parameters.optimizer,
        network.parameters(),
        lr=parameters.lr,
        weight_decay=parameters.weight_decay,
        momentum=parameters.momentum,
        arguments=parameters.optimizer_args,
    )
    refuse_a_lonely_image(network, len(train), parameters.batch_size)
    order = ShuffledBatches(len(train), parameters.batch_size, seed=parameters.seed)
    batches = loader(train, order)
    augment = augmentation.build(parameters.augmentation, len(train.description.classes))
    rate_of = partial(
        learning_rate,
        schedule=parameters.schedule,
        lr=parameters.lr,
        warmup=parameters.warmup,
        steps=parameters.epochs * len(order),
    )

    # --- Go on from where an interrupted run of this very training stopped, or from the beginning ---
    inputs = [train.sha256, val.sha256, train.description.model_dump(mode="json")]
    key = checkpoint.key(parameters.model_dump(), inputs, device)
    progress = checkpoint.resume(key, network, optimizer)
    save = partial(checkpoint.save, key, progress, network, optimizer)
    if progress.rows or progress.step:
        print(f"going on behind epoch {len(progress.rows)}, step {progress.step}, of an interrupted run", flush=True)

    # --- The training loop ---
    try:
        while len(progress.rows) < parameters.epochs and not progress.out_of_patience(parameters.patience):
            done = len(progress.rows)
            order.epoch, order.start = done, progress.step
            steps = range(done * len(order) + progress.step, (done + 1) * len(order))
            train_epoch(
                network,
                loss_function,
                optimizer,
                batches,
                augment,
                [rate_of(step) for step in steps],
                [derived_seed(parameters.seed, "dropout", step) for step in steps],
                progress,
                save,
                clip_norm=parameters.clip_norm,
                device=device,
            )
            rate = rate_of(steps.stop - 1)
            row: dict[str, float] = {
                "epoch": done + 1,
                "train_loss": progress.loss_sum / len(train),
                "train_accuracy": progress.correct / len(train),
                **validate(network, loss_function, val, device),
                "lr": rate,
            }
            refuse_if_not_finite(row["val_loss"], f"val loss became {row['val_loss']} behind epoch {done + 1}", rate)
            with signals_held():
                progress.finish_epoch(row, network)
            save()
            print(
                f"epoch {row['epoch']:>3}/{parameters.epochs}: "
                f"train loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.4f}; "
                f"val loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}; lr {row['lr']:.3g}",
                flush=True,
            )
    except SystemExit:  # SIGINT or SIGTERM; never in the middle of a step
        save()
        raise

    if len(progress.rows) < parameters.epochs:
        print(f"stopped: no lower val loss for {parameters.patience} epoch(s)")

    # --- Keep the weights that did best on val ---
    model_file.save(
        MODELS, progress.best_weights, architecture, train.description, parameters.model_dump(), parameters.threads
    )
    with replacing(CURVES) as temporary:
        pd.DataFrame(progress.rows).to_csv(temporary, index=False, lineterminator="\n")
    summary = {
        "weights": sum(weight.numel() for weight in network.parameters()),
        "epochs": len(progress.rows),
        "best_epoch": progress.best["epoch"],
        **{name: value for name, value in progress.best.items() if name not in ("epoch", "lr")},
    }
    write_text(SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    checkpoint.finish(key, progress)


def train_epoch(
    network: nn.Module,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    augment: augmentation.Augment,
    rates: Sequence[float],
    seeds: Sequence[int],
    progress: checkpoint.Progress,
    save: Callable[[], None],
    *,
    clip_norm: float | None,
    device: torch.device,
) -> None:
    """The rest of an epoch's steps, each with its learning rate and the seed of its randomness; sums go to `progress`.

    Loss and accuracy are those of the network as it learns, with dropout on, on augmented images.

    Raises:
        UserError: the loss is no longer a finite number.
    """
    network.train()
    epoch = len(progress.rows) + 1
    saved = time.monotonic()
    with tqdm(total=len(rates), desc=f"epoch {epoch}", unit=" steps", leave=False, disable=None) as bar:
        for (images, targets), rate, seed in zip(batches, rates, seeds, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate
            compute.seed(device, seed)
            images, targets = images.to(device), targets.to(device)  # (B, C, H, W) float32, (B,) int64
            images, wanted = augment(images, targets)
            with signals_held():
                loss, logits = train_step(network, loss_function, optimizer, images, wanted, clip_norm)
                progress.step += 1
                progress.loss_sum += loss * len(targets)
                progress.correct += int((logits.argmax(1) == targets).sum())
            refuse_if_not_finite(loss, f"training loss became {loss} in epoch {epoch}, step {progress.step}", rate)
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()
            bar.update()
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)


def train_step(
    network: nn.Module,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    clip_norm: float | None,
) -> tuple[float, Tensor]:
    """Forward, loss, backward, step, on one batch: the mean loss, and the logits (B, classes)."""
    logits: Tensor | None = None

    def forward_and_backward() -> float:  # a closure, because LBFGS looks at a batch several times
        nonlocal logits
        optimizer.zero_grad()
        outputs = network(images)
        logits = outputs.detach() if logits is None else logits  # those of the loss that `step` returns: the first
        loss: Tensor = loss_function(outputs, targets)
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(network.parameters(), clip_norm)
        return float(loss.detach())

    loss = optimizer.step(forward_and_backward)
    assert logits is not None
    return loss, logits


def refuse_if_not_finite(loss: float, what: str, rate: float) -> None:
    """Stop at a loss that is no number: nothing good comes after it.

    Raises:
        UserError: says what, at which learning rate, and what to change.
    """
    if not math.isfinite(loss):
        raise UserError(f"the {what}, at lr {rate:g}; choose a lower lr, a longer warmup, or a clip_norm such as 1.0")


def refuse_a_lonely_image(network: nn.Module, rows: int, batch_size: int) -> None:
    """Batch normalization needs two images to find a spread.

    Raises:
        UserError: the last step of an epoch would have one.
    """
    normalizes = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())
    if normalizes and (batch_size == 1 or rows % batch_size == 1):
        raise UserError(
            f"params.yaml: batch_size: {batch_size} leaves one of {rows:,} images for the last step, and the model's "
            "batch normalization needs two; choose another batch_size"
        )


def validate(
    network: nn.Module, loss_function: nn.Module, val: tensors.Split, device: torch.device
) -> dict[str, float]:
    """Mean loss and accuracy over the validation rows, dropout off."""
    logits = logits_of(network, val, device)
    return {
        "val_loss": float(copy.deepcopy(loss_function).to("cpu", torch.float64)(logits, val.targets)),
        "val_accuracy": float((logits.argmax(1) == val.targets).double().mean()),
    }


if __name__ == "__main__":
    run(main)
