"""Stage 4, train: data/tensors/{train,val} -> models/

    python -m stages.train

In:  the training and validation tensors; the test split is never opened.
Out: models/model.safetensors and models/model.json, the weights of the epoch that did best on val and all it takes to
     use them; reports/train.csv, a row per epoch; reports/train.json, how the training ended.
An interrupted training goes on from its last saved step, and ends with the bits of an uninterrupted one. It is saved
behind every epoch, once a minute, and when SIGINT or SIGTERM ends it.
"""

from stages.lib.core.process import defer_signals, run

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field

from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_table, write_text
from stages.lib.core.parameters import StageParameters, load, without
from stages.lib.model import compute, distributed, model_file, networks, tasks, tensors
from stages.lib.training import augmentation, checkpoint, loop, losses, optimizers, pretrained
from stages.lib.training.batches import ShuffledBatches, derived_seed, loader
from stages.lib.training.schedules import SCHEDULES, learning_rate

TRAIN = Path("data/tensors/train")
VAL = Path("data/tensors/val")
MEBIBYTE = 1 << 20
CURVES = Path("reports/train.csv")
SUMMARY = Path("reports/train.json")


class Parameters(StageParameters):
    """What train reads of params.yaml: every hyperparameter."""

    model: str = Field(
        default="mlp",
        description="the network: of stages/lib/model/networks.py, or of torchvision",
        json_schema_extra={"enum": [*networks.NAMES]},
    )
    weights: dict[str, str] | None = Field(
        default=None,
        description="file of weights to begin with, and its sha256; null: fresh ones",
        json_schema_extra={"anyOf": [{"type": "null"}, pretrained.WEIGHTS]},
    )
    hidden: list[int] = Field(
        default=[96, 256],
        max_length=64,
        description="widths of the hidden layers, in units",
        json_schema_extra={"items": {"type": "integer", "minimum": 1, "maximum": 1_000_000}},
    )
    activation: str | list[str] = Field(
        default=["tanh", "sigmoid"],
        description="activation of torch.nn in lower case: one name, or one per hidden layer",
        json_schema_extra={
            "anyOf": [
                {"type": "string", "enum": [*sorted(networks.ACTIVATIONS)]},
                {"type": "array", "items": {"type": "string", "enum": [*sorted(networks.ACTIVATIONS)]}},
            ]
        },
    )
    dropout: float = Field(
        default=0.2, ge=0, lt=1, description="probability that a hidden unit is left out of a training step"
    )
    augmentation: Annotated[dict[str, float], AfterValidator(without(0))] = Field(
        default=dict.fromkeys(augmentation.OPTIONS, 0),
        description="random changes of the training images; 0 turns each off",
        json_schema_extra={"properties": augmentation.OPTIONS, "additionalProperties": False},
    )
    loss: str = Field(
        default="CrossEntropyLoss",
        description="loss of torch.nn, or of stages/lib/training/losses.py",
        json_schema_extra={"enum": [*losses.LOSSES]},
    )
    loss_args: Annotated[dict[str, Any], AfterValidator(without(None))] = Field(
        default=dict.fromkeys(("weight", "label_smoothing", "margin", "p", "delta", "beta")),
        description="options of the loss, by name; null: its own default",
        json_schema_extra={"properties": losses.all_options(), "additionalProperties": False},
    )
    optimizer: str = Field(
        default="Adam", description="class of torch.optim", json_schema_extra={"enum": [*optimizers.OPTIMIZERS]}
    )
    lr: float = Field(default=0.001, gt=0, description="highest learning rate, per step")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay, per step; 0 for none")
    momentum: float = Field(
        default=0.0, ge=0, lt=1, description="momentum, per step, for optimizers that take it; 0 for none"
    )
    optimizer_args: Annotated[dict[str, Any], AfterValidator(without(None))] = Field(
        default=dict.fromkeys(("betas", "eps", "amsgrad", "alpha", "centered", "dampening", "nesterov")),
        description="options of the optimizer, by name; null: its own default",
        json_schema_extra={"properties": optimizers.all_options(), "additionalProperties": False},
    )
    schedule: str = Field(
        default="constant", description="course of the learning rate", json_schema_extra={"enum": [*SCHEDULES]}
    )
    warmup: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of all steps in which the learning rate rises; null: the schedule's own",
    )
    batch_size: int = Field(default=32, ge=1, le=10**9, description="images per step")
    memory: int = Field(
        default=256,
        ge=1,
        le=10**6,
        description="MiB of training images to hold at a time; a larger split is shuffled in blocks",
    )
    epochs: int = Field(default=10, ge=1, le=10**6, description="passes over the training split, at most")
    patience: int | None = Field(
        default=5, ge=1, le=10**6, description="epochs without a lower val loss before it ends; null: never"
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest L2 norm of a step's gradient; null: no limit"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="seed of first weights, shuffling and dropout")
    precision: str = Field(
        default="float32",
        description="of the steps: float32, or bfloat16 where torch.autocast sees fit",
        json_schema_extra={"enum": ["float32", "bfloat16"]},
    )
    compile: bool = Field(
        default=False, description="whether torch.compile prepares the network, up to a minute, for quicker steps"
    )
    threads: int = Field(default=1, ge=1, le=1024, description="CPU threads; another number may change the last bits")


def main() -> None:
    parameters = load(Parameters)
    if not distributed.launched("train", parameters.threads):
        device = compute.prepare(parameters.threads)
        with distributed.joined(device) as group:
            train(parameters, device, group)


def train(parameters: Parameters, device: torch.device, group: distributed.Group) -> None:
    """The whole of it, in one process, or in one of a group that has divided every batch among itself."""
    if group.size > 1 and parameters.optimizer == "LBFGS":
        raise UserError("params.yaml: optimizer: LBFGS trains in one process only: each would search a way of its own")

    # --- What to train, on what ---
    memory = parameters.memory * MEBIBYTE
    train, val = (ready(tensors.read(path, memory), parameters.loss) for path in (TRAIN, VAL))
    data = train.description
    architecture = model_file.Architecture(**parameters.model_dump(include=set(model_file.Architecture.model_fields)))

    # --- Model, optimizer, batches and learning rates ---
    compute.seed(torch.device("cpu"), derived_seed(parameters.seed, "weights", 0))
    try:
        network = model_file.build(architecture, data).to(device)
    except RuntimeError as error:  # torch says no more of a failed allocation
        raise UserError(f"params.yaml: hidden: this network does not fit into memory ({reason(error)})") from error
    if parameters.weights:
        pretrained.load(network, Path(parameters.weights["file"]), parameters.weights["sha256"])
    loss_function = losses.build(parameters.loss, parameters.loss_args, train.targets, data.outputs).to(device)
    optimizer = optimizers.build(
        parameters.optimizer,
        network.parameters(),
        lr=parameters.lr,
        weight_decay=parameters.weight_decay,
        momentum=parameters.momentum,
        arguments=parameters.optimizer_args,
    )
    loop.refuse_a_lonely_image(network, len(train), parameters.batch_size)
    order = ShuffledBatches(
        tensors.on_device(train, device), parameters.batch_size, seed=parameters.seed, memory=memory, share=group.share
    )
    batches = loader(order, pinned=device.type == "cuda")
    standardize = tensors.Standardize(data).to(device)
    augment = augmentation.build(parameters.augmentation, data.outputs)
    rate_of = partial(
        learning_rate,
        schedule=parameters.schedule,
        lr=parameters.lr,
        warmup=parameters.warmup,
        steps=parameters.epochs * len(order),
    )

    # --- Go on from where an interrupted run of this very training stopped, or from the beginning ---
    inputs = [train.sha256, val.sha256, data.model_dump(mode="json")]
    key = checkpoint.key(parameters.model_dump(), inputs, device)
    progress = checkpoint.resume(key, network, optimizer) if group.rank == 0 else checkpoint.Progress()
    progress, state = group.from_first((progress, optimizer.state_dict()))
    if group.rank:  # what the network has come to, `mean_of_gradients` hands on
        optimizer.load_state_dict(state)
    parallel = compute.for_training(
        group.mean_of_gradients(network), device, precision=parameters.precision, compiled=parameters.compile
    )
    save = partial(checkpoint.save, key, progress, network, optimizer) if group.rank == 0 else nothing
    if progress.rows or progress.step:
        print(f"going on behind epoch {len(progress.rows)}, step {progress.step}, of an interrupted run", flush=True)

    # --- The training loop ---
    score = tasks.score_name(data)
    try:
        while len(progress.rows) < parameters.epochs and not progress.out_of_patience(parameters.patience):
            done = len(progress.rows)
            order.begin(done, progress.step)
            steps = range(done * len(order) + progress.step, (done + 1) * len(order))
            loop.train_epoch(
                parallel,
                loss_function,
                optimizer,
                batches,
                standardize,
                augment,
                [rate_of(step) for step in steps],
                [derived_seed(parameters.seed, "dropout", step) for step in steps],
                progress,
                save,
                clip_norm=parameters.clip_norm,
                device=device,
                group=group,
            )
            rate = rate_of(steps.stop - 1)
            val_loss, val_score = loop.validate(network, loss_function, val, device, group)
            loop.refuse_if_not_finite(val_loss, f"val loss became {val_loss} behind epoch {done + 1}", rate)
            row: dict[str, float] = {
                "epoch": done + 1,
                "train_loss": progress.loss_sum / len(train),
                "train_score": progress.score_sum / len(train),
                "val_loss": val_loss,
                "val_score": val_score,
                "lr": rate,
            }
            with defer_signals():
                progress.finish_epoch(row, network)
            save()
            print(
                f"epoch {row['epoch']:>3}/{parameters.epochs}: "
                f"train loss {row['train_loss']:.4f}, {score} {row['train_score']:.4f}; "
                f"val loss {val_loss:.4f}, {score} {val_score:.4f}; lr {rate:.3g}",
                flush=True,
            )
    except SystemExit:  # SIGINT or SIGTERM; never in the middle of a step
        save()
        raise

    if len(progress.rows) < parameters.epochs:
        print(f"stopped: no lower val loss for {parameters.patience} epoch(s)")

    if group.rank:
        return

    # --- Keep the weights that did best on val ---
    recorded = parameters.model_dump()
    if parameters.weights:
        recorded["weights"] = {"sha256": parameters.weights["sha256"]}  # the file's place is this machine's
    images = {"train": len(train), "val": len(val)}
    model_file.save(model_file.MODEL, progress.best_weights, architecture, data, images, recorded, parameters.threads)
    write_table(CURVES, {name: [row[name] for row in progress.rows] for name in progress.rows[0]})
    summary = {
        "weights": sum(weight.numel() for weight in network.parameters()),
        "epochs": len(progress.rows),
        "best_epoch": progress.best["epoch"],
        **{name.replace("score", score): value for name, value in progress.best.items() if name not in ("epoch", "lr")},
        "processor": compute.processor(device),  # `make verify` demands equal bits on this kind alone
    }
    write_text(SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    checkpoint.finish(key, progress)


def nothing() -> None:
    """What every process but the first does to save."""


def ready(split: tensors.Split, loss: str) -> tensors.Split:
    """A split with the targets that the loss wants.

    Raises:
        UserError: the loss is of the other task.
    """
    fitting = losses.OF_QUANTITIES if split.description.quantities else losses.OF_CLASSES
    if loss not in fitting:
        raise UserError(f"params.yaml: loss: {loss} is not for these targets; expected {', '.join(fitting)}")
    return replace(split, targets=tasks.wanted(split.targets, split.description))


if __name__ == "__main__":
    run(main)
