"""Stage 4, train: data/tensors/{train,val} -> models/

    python -m stages.train

In:  the training and validation tensors; the test split is never opened.
Out: models/model.safetensors and models/model.json, the weights of the epoch with the lowest val loss and their
     description; reports/train.csv, a row per epoch, written again after each one; reports/train.json, a summary.
A checkpoint is saved after every epoch, every minute, and when SIGINT or SIGTERM ends the training. The next run
resumes from it and ends with the same bits as an uninterrupted run.
"""

from stages.lib.core.process import defer_signals, run

import copy
import json
import math
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn
from tqdm import tqdm

from stages.lib.arithmetic.guard import guarded
from stages.lib.arithmetic.mode import ARITHMETICS, NATIVE, NATIVE_FUNCTIONS, PORTABLE, functions_of
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import write_table, write_text
from stages.lib.core.parameters import StageParameters, load, without
from stages.lib.model import compute, distributed, model_file, networks, tasks, tensors
from stages.lib.model.distributed import SINGLE, Group
from stages.lib.model.dropout import draw_by_rows
from stages.lib.model.inference import outputs_of
from stages.lib.training import augmentation, averaging, checkpoint, losses, optimizers, pretrained
from stages.lib.training.batches import ShuffledBatches, derived_seed, loader
from stages.lib.training.schedules import SCHEDULES, learning_rate

TRAIN = Path("data/tensors/train")
VAL = Path("data/tensors/val")
CURVES = Path("reports/train.csv")
SUMMARY = Path("reports/train.json")
MEBIBYTE = 1 << 20
PORTABLE_NOTE = "portable arithmetic: the same bits on every processor; arithmetic=native is quicker"
NATIVE_NOTE = "native arithmetic: another processor, or number of threads or processes, gives other last bits"
SAVE_EVERY = 60.0  # seconds between two checkpoints within an epoch


class Parameters(StageParameters):
    """The keys of params.yaml that train reads: every hyperparameter."""

    model: str = Field(
        default="mlp",
        description="the network: of stages/lib/model/networks.py, or of torchvision",
        json_schema_extra={"enum": [*networks.NAMES]},
    )
    weights: dict[str, str] | None = Field(
        default=None,
        description="initial weights: a file and its SHA-256; null: fresh ones",
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
        description="options of the loss, by name; null: its default",
        json_schema_extra={"properties": losses.all_options(), "additionalProperties": False},
    )
    optimizer: str = Field(
        default="Adam",
        description="class of torch.optim, or of stages/lib/training/optimizers.py",
        json_schema_extra={"enum": [*optimizers.OPTIMIZERS]},
    )
    lr: float = Field(default=0.001, gt=0, description="highest learning rate")
    weight_decay: float = Field(default=0.0, ge=0, description="weight decay, per step; 0 for none")
    momentum: float = Field(
        default=0.0, ge=0, lt=1, description="momentum, per step, for optimizers that take it; 0 for none"
    )
    optimizer_args: Annotated[dict[str, Any], AfterValidator(without(None))] = Field(
        default=dict.fromkeys(("betas", "eps", "amsgrad", "alpha", "centered", "dampening", "nesterov", "ns_steps")),
        description="options of the optimizer, by name; null: its default",
        json_schema_extra={"properties": optimizers.all_options(), "additionalProperties": False},
    )
    schedule: str = Field(
        default="constant", description="learning rate schedule", json_schema_extra={"enum": [*SCHEDULES]}
    )
    warmup: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="share of all steps in which the learning rate rises; null: the schedule's default",
    )
    batch_size: int = Field(default=32, ge=1, le=10**9, description="images per step")
    memory: int = Field(
        default=256,
        ge=1,
        le=10**6,
        description="MiB of a split's images to hold in memory; a larger training split is shuffled in blocks",
    )
    epochs: int = Field(default=10, ge=1, le=10**6, description="passes over the training split, at most")
    patience: int | None = Field(
        default=5,
        ge=1,
        le=10**6,
        description="epochs without a lower val loss after which training stops early; null: never",
    )
    clip_norm: float | None = Field(
        default=None, gt=0, description="largest L2 norm of a step's gradient; null: no limit"
    )
    averaging: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="decay, per step, of a moving average of the weights, which val then measures; null: no average",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="seed of initial weights, shuffling, dropout and augmentation"
    )
    arithmetic: str = Field(
        default=PORTABLE,
        description="portable: equal bits on every processor; native: quicker, other bits on another processor",
        json_schema_extra={"enum": [*ARITHMETICS]},
    )
    precision: str = Field(
        default="float32",
        description="of the steps: float32, or bfloat16 by torch.autocast",
        json_schema_extra={"enum": ["float32", "bfloat16"]},
    )
    compile: bool = Field(
        default=False,
        description="whether to compile the network with torch.compile: up to a minute first, then faster steps",
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="CPU threads; in native arithmetic another number may change the last bits",
    )


def main() -> None:
    parameters = load(Parameters)
    if not distributed.launched("train", parameters.threads):
        device = compute.prepare(parameters.threads, parameters.arithmetic)
        with distributed.joined(device) as group:
            train(parameters, device, group)


def train(parameters: Parameters, device: torch.device, group: Group) -> None:
    """Train the model, as the only process or as one rank of a group that shares every batch."""
    if group.size > 1 and parameters.optimizer == "LBFGS":
        raise UserError(
            "params.yaml: optimizer: LBFGS trains in one process only; unset TORCHRUN, or choose another optimizer"
        )

    functions = functions_of(parameters.arithmetic, group)
    portable = parameters.arithmetic == PORTABLE

    # --- Data: the splits and the training batches ---
    memory = parameters.memory * MEBIBYTE
    train, val = (with_loss_targets(tensors.read(path, memory), parameters.loss) for path in (TRAIN, VAL))
    data = train.description
    mixes = "mixup" in parameters.augmentation  # with images of any rank: every rank augments the whole batch
    order = ShuffledBatches(
        tensors.on_device(train, device),
        parameters.batch_size,
        seed=parameters.seed,
        memory=memory,
        rows_of=(lambda rows: slice(0, rows)) if mixes else group.rows_of,
    )
    batches = loader(order, pinned=device.type == "cuda")
    standardize = tensors.Standardize(data).to(device)
    augment = augmentation.build(parameters.augmentation, data.outputs, None if mixes else group.batch)

    # --- Model ---
    architecture = model_file.Architecture(**parameters.model_dump(include=set(model_file.Architecture.model_fields)))
    compute.seed(torch.device("cpu"), derived_seed(parameters.seed, "weights", 0))
    try:
        with guarded() if portable else nullcontext(), functions:
            network = model_file.build(architecture, data, group.batch).to(device)
    except RuntimeError as error:  # torch raises nothing more specific for a failed allocation
        raise UserError(
            f"params.yaml: hidden: this network does not fit into memory ({reason(error)}); choose a smaller one"
        ) from error
    if not portable:
        draw_by_rows(network, group.batch)
    refuse_batch_of_one(network, len(train), parameters.batch_size, 1 if portable else group.size)
    if parameters.weights:
        pretrained.load(network, Path(parameters.weights["file"]), parameters.weights["sha256"])

    # --- Loss, optimizer and learning rate ---
    loss_function = losses.build(parameters.loss, parameters.loss_args, train.targets, data.outputs).to(device)
    optimizer = optimizers.build(
        parameters.optimizer,
        network.parameters(),
        lr=parameters.lr,
        weight_decay=parameters.weight_decay,
        momentum=parameters.momentum,
        arguments=parameters.optimizer_args,
        arithmetic=parameters.arithmetic,
    )
    measured = network  # by val, and kept if it is the best
    if parameters.averaging is not None:
        measured = copy.deepcopy(network)
        update_average = averaging.updater(measured, network, parameters.averaging)
    rate_at = partial(
        learning_rate,
        schedule=parameters.schedule,
        lr=parameters.lr,
        warmup=parameters.warmup,
        steps=parameters.epochs * len(order),
    )

    # --- Resume from a checkpoint of exactly this training, if there is one ---
    inputs = [train.sha256, val.sha256, data.model_dump(mode="json")]
    key = checkpoint.key(parameters.model_dump(), inputs, device)
    parts: checkpoint.Parts = {"network": network, "optimizer": optimizer, "average": measured}
    progress = checkpoint.resume(key, parts) if group.rank == 0 else checkpoint.Progress()
    fields, optimizer_state = group.broadcast((vars(progress), optimizer.state_dict()))
    if group.rank:
        progress = checkpoint.Progress(**fields)
        optimizer.load_state_dict(optimizer_state)
    group.broadcast_weights(network, measured)
    if progress.epochs or progress.step:
        print(f"resuming after epoch {progress.epochs}, step {progress.step} of an interrupted run", flush=True)
    else:
        print(PORTABLE_NOTE if portable else NATIVE_NOTE, flush=True)
    training_network = network
    if not portable:  # portable gradients are those of the whole batch already
        training_network = compute.for_training(
            group.average_gradients(network), device, precision=parameters.precision, compiled=parameters.compile
        )
    guard = guarded(network) if portable else nullcontext()  # of the first step

    def save() -> None:
        if group.rank == 0:
            checkpoint.save(key, progress, parts)

    # --- The training loop ---
    score_name = tasks.score_name(data)
    images_done = progress.epochs * len(train) + progress.step * parameters.batch_size
    bar = progress_bar(images_done, parameters.epochs * len(train), group)
    try:
        while progress.epochs < parameters.epochs and not progress.out_of_patience(parameters.patience):
            epoch, saved_at = progress.epochs + 1, time.monotonic()
            order.begin(progress.epochs, progress.step)
            network.train()
            bar.set_description(f"epoch {epoch}/{parameters.epochs}", refresh=False)
            for images, targets in batches:
                # All randomness of a step follows from the seed and the number of the step.
                step = progress.epochs * len(order) + progress.step
                seed = derived_seed(parameters.seed, "dropout", step)
                for each in {torch.device("cpu"), device}:  # mixup's share is the CPU's on every device
                    compute.seed(each, seed)
                rate = rate_at(step)
                for parameter_group in optimizer.param_groups:
                    parameter_group["lr"] = rate

                group.require_launcher()

                # --- This rank's rows of the batch, on the device, augmented ---
                rows = len(targets)
                mine = group.begin_batch(rows)
                images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
                with functions:
                    images = standardize(images)  # (B, C, H, W) float32
                    if mixes:
                        images, mixed_targets = augment(images, targets)
                        images, rank_targets = images[mine], mixed_targets[mine]
                    else:
                        mixed_targets = targets
                        images, rank_targets = augment(images, targets[mine])
                group.seed_dropout(seed)

                # --- Forward, loss, backward, step ---
                weight = losses.denominator(loss_function, mixed_targets)  # of this batch in the epoch's mean loss
                with defer_signals():
                    with guard:
                        loss, outputs = train_step(
                            training_network,
                            losses.of_rows_that_count(loss_function, weight)
                            if portable
                            else losses.for_rank(loss_function, mixed_targets, group),
                            optimizer,
                            images,
                            rank_targets,
                            parameters.clip_norm,
                            functions,
                        )
                        if parameters.averaging is not None:
                            update_average(step + 1)
                    guard = nullcontext()
                    score = tasks.score_sum(outputs, targets[mine], group)
                    if not portable:
                        loss = group.total(loss / group.size)  # for_rank scaled it by the group size
                    progress.step += 1
                    progress.loss_sum += loss * weight
                    progress.loss_weight += weight
                    progress.score_sum += score
                require_finite(loss, "training loss", f"in epoch {epoch}, step {progress.step}", rate)

                if time.monotonic() - saved_at > SAVE_EVERY:
                    save()
                    saved_at = time.monotonic()
                if not bar.disable:  # formatting a number takes as long as a small layer
                    bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                    bar.update(rows)

            # --- Validate ---
            if not portable:  # each rank normalized by the statistics of its own rows; rank 0 keeps the weights
                group.broadcast_weights(network, measured)
            val_loss, val_score = validate(measured, loss_function, val, device, group, parameters.arithmetic)
            rate = rate_at(epoch * len(order) - 1)
            require_finite(val_loss, "val loss", f"after epoch {epoch}", rate)

            # --- Record the epoch, keep its weights if they are the best, save a checkpoint ---
            row: dict[str, float] = {
                "epoch": epoch,
                "train_loss": progress.loss_sum / progress.loss_weight if progress.loss_weight else 0.0,
                "train_score": progress.score_sum / len(train),
                "val_loss": val_loss,
                "val_score": val_score,
                "lr": rate,
            }
            with defer_signals():
                progress.finish_epoch(row, measured)
            save()
            if group.rank == 0:
                write_curves(progress)
            bar.clear()
            print(
                f"epoch {epoch:>3}/{parameters.epochs}: "
                f"train loss {row['train_loss']:.4f}, {score_name} {row['train_score']:.4f}; "
                f"val loss {val_loss:.4f}, {score_name} {val_score:.4f}; lr {rate:.3g}",
                flush=True,
            )
    except SystemExit:  # SIGINT or SIGTERM; never within a step
        save()
        raise
    finally:
        bar.close()
    if progress.epochs < parameters.epochs:
        print(f"stopped early: no lower val loss for {parameters.patience} epoch(s)")
    if group.rank:
        return

    # --- Write the model of the best epoch, the curves and the summary ---
    recorded = parameters.model_dump()
    if parameters.weights:
        recorded["weights"] = {"sha256": parameters.weights["sha256"]}  # the path is specific to this machine
    image_counts = {"train": len(train), "val": len(val)}
    model_file.save(model_file.MODEL, progress.best_weights, architecture, data, image_counts, recorded)
    write_curves(progress)
    best = {name.replace("score", score_name): value for name, value in progress.best.items() if name != "lr"}
    summary = {
        "weights": sum(weight.numel() for weight in network.parameters()),
        "epochs": progress.epochs,
        "best_epoch": best.pop("epoch"),
        **best,
    }
    if not portable:
        summary["processor"] = compute.processor(device)  # `make verify` requires equal bits on the same kind only
    write_text(SUMMARY, json.dumps(summary, indent=2, allow_nan=False) + "\n")
    checkpoint.finish(key, progress)


def train_step(
    network: nn.Module,
    loss_function: losses.LossFunction,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    clip_norm: float | None,
    functions: AbstractContextManager[Any] = NATIVE_FUNCTIONS,
) -> tuple[float, Tensor]:
    """Make one step: forward, loss, backward, step.

    Args:
        network: in training mode.
        loss_function: the mean over the rows, scaled for this rank by `losses.for_rank` in native arithmetic.
        optimizer: of the network's weights.
        images: (B, C, H, W) float32, standardized and augmented.
        targets: (B,) class numbers or (B, classes) probabilities, or (B, quantities).
        clip_norm: the largest L2 norm of the gradient; None: no limit.
        functions: the mode of the arithmetic.

    Returns:
        The loss before the step, and the outputs that it was computed from: (B, classes or quantities).
    """
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    evaluated: list[Tensor] = []  # LBFGS evaluates the batch several times per step, first at the current weights

    def forward_and_backward() -> float:
        for weight in weights:
            weight.grad = None
        with functions:
            outputs = network(images)
            loss = loss_function(outputs, targets)
        evaluated.append(outputs.detach())
        loss.backward()
        if clip_norm is not None:
            with functions:
                nn.utils.clip_grad_norm_(weights, clip_norm)
        return float(loss.detach())

    loss = optimizers.plain_step(optimizer)(forward_and_backward)
    return loss, evaluated[0]


def validate(
    network: nn.Module,
    loss_function: nn.Module,
    val: tensors.Split,
    device: torch.device,
    group: Group = SINGLE,
    arithmetic: str = NATIVE,
) -> tuple[float, float]:
    """Return mean loss and score over the validation rows, in evaluation mode; the same on every rank."""
    # Portable functions round to float32; their sums are exact.
    dtype = torch.float32 if arithmetic == PORTABLE else torch.float64
    loss_function = copy.deepcopy(loss_function).to("cpu", dtype)
    loss_sum, denominator, score_sums = 0.0, 0.0, torch.zeros(1, dtype=torch.float64)
    for rows, outputs in outputs_of(network, val, device, group, arithmetic):
        targets = val.targets[rows]
        of_loss = targets.to(dtype) if targets.is_floating_point() else targets
        weight = losses.denominator(loss_function, targets)
        with functions_of(arithmetic):
            loss = losses.of_rows_that_count(loss_function, weight)(outputs.to(dtype), of_loss)
        loss_sum += float(loss) * weight
        denominator += weight
        score_sums = score_sums + tasks.sums(outputs, targets.double() if targets.is_floating_point() else targets)
    mean_loss = loss_sum / denominator if denominator else 0.0  # only rank 0 has the outputs
    return group.broadcast((mean_loss, tasks.score(score_sums, val.targets)))


def write_curves(progress: checkpoint.Progress) -> None:
    """Write a row for each finished epoch, so that plots show the curves of a training that is still running."""
    write_table(CURVES, {name: [row[name] for row in progress.rows] for name in progress.rows[0]})


def progress_bar(done: int, total: int, group: Group) -> "tqdm[NoReturn]":
    """Show the images of the whole training on a terminal, with images per second and time left, on rank 0."""
    with defer_signals():  # a signal in the constructor of tqdm prints a traceback
        return tqdm(
            initial=done,
            total=total,
            unit=" images",
            unit_scale=True,
            leave=False,
            disable=True if group.rank else None,  # None: unless stderr is a terminal
        )


def with_loss_targets(split: tensors.Split, loss: str) -> tensors.Split:
    """Return a split with the targets that the loss compares outputs with.

    Raises:
        UserError: the loss belongs to the other task.
    """
    available = losses.OF_QUANTITIES if split.description.quantities else losses.OF_CLASSES
    if loss not in available:
        raise UserError(f"params.yaml: loss: {loss} does not fit these targets; expected {', '.join(available)}")
    return replace(split, targets=tasks.loss_targets(split.targets, split.description))


def refuse_batch_of_one(network: nn.Module, rows: int, batch_size: int, ranks: int) -> None:
    """Refuse a batch of which a rank has one image: batch normalization needs two for a variance.

    Args:
        network: that may normalize batches.
        rows: of the training split.
        batch_size: rows per step.
        ranks: that divide a batch and normalize their own rows.

    Raises:
        UserError: the network normalizes batches, and a rank would have one image in some step.
    """
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        return
    batches = {"a step": min(batch_size, rows), "the last step": rows % batch_size or batch_size}
    for step, images in batches.items():
        if images // ranks < 2:
            each = "" if ranks == 1 else f" to one of {ranks} processes"
            raise UserError(
                f"params.yaml: batch_size: {batch_size} leaves one of {rows:,} images{each} for {step}, and the "
                "model's batch normalization needs two; choose another batch_size"
            )


def require_finite(loss: float, name: str, when: str, rate: float) -> None:
    """Stop the training at a loss that is not finite: it would not recover.

    Raises:
        UserError: the loss is infinite or NaN.
    """
    if not math.isfinite(loss):
        raise UserError(
            f"the {name} became {loss} {when}, at lr {rate:g}; choose a lower lr, a longer warmup, or a clip_norm "
            "such as 1.0"
        )


if __name__ == "__main__":
    run(main)
