"""The training loop: an epoch of steps, the step itself, and what is measured on val behind it."""

from stages.lib.core.process import defer_signals

import copy
import math
import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from stages.lib.core.errors import UserError
from stages.lib.model import compute, tasks, tensors
from stages.lib.model.distributed import ALONE, Group
from stages.lib.model.dropout import QuickDropout
from stages.lib.model.inference import outputs_of
from stages.lib.training import augmentation, checkpoint, losses
from stages.lib.training.optimizers import step_of

SAVE_EVERY = 60.0  # seconds between two states within an epoch


def train_epoch(
    network: nn.Module,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    standardize: tensors.Standardize,
    augment: augmentation.Augment,
    rates: Sequence[float],
    seeds: Sequence[int],
    progress: checkpoint.Progress,
    save: Callable[[], None],
    *,
    clip_norm: float | None,
    device: torch.device,
    group: Group = ALONE,
) -> None:
    """The rest of an epoch's steps, each with its learning rate and the seed of its randomness; sums go to `progress`.

    Loss and score are those of the network as it learns, with dropout on, on augmented images.

    Raises:
        UserError: the loss is no longer a finite number.
    """
    network.train()
    epoch = len(progress.rows) + 1
    saved = time.monotonic()
    quiet = True if group.rank else None  # None: unless a terminal looks on
    with tqdm(total=len(rates), desc=f"epoch {epoch}", unit=" steps", leave=False, disable=quiet) as bar:
        for (images, targets), rate, seed in zip(batches, rates, seeds, strict=True):
            for each in optimizer.param_groups:
                each["lr"] = rate
            mine, rows = group.share(len(targets)), len(targets)
            compute.seed(device, seed)
            images, targets = images.to(device, non_blocking=True), targets.to(device, non_blocking=True)
            images, wanted = augment(standardize(images), targets[mine], mine, rows)  # (B, C, H, W) float32
            weight = None
            if group.size > 1:
                counted = losses.counted(loss_function, targets[mine]) if group.rank < rows else 0.0
                weight = group.size * counted / losses.counted(loss_function, targets)
                QuickDropout.rows = mine, rows
                if device.type != "cpu":  # whose dropout is torch's own, and the same in each process with one seed
                    compute.seed(device, seed + group.rank)
            with defer_signals():
                loss, outputs = train_step(network, loss_function, optimizer, images, wanted, clip_norm, weight)
                right = tasks.score_sum(outputs, targets[mine])
                if group.size > 1:
                    loss, right = group.sums(loss / group.size, right if group.rank < rows else 0.0)
                progress.step += 1
                progress.loss_sum += loss * rows
                progress.score_sum += right
            if not math.isfinite(loss):
                refuse_if_not_finite(loss, f"training loss became {loss} in epoch {epoch}, step {progress.step}", rate)
            if time.monotonic() - saved > SAVE_EVERY:
                save()
                saved = time.monotonic()
            if not bar.disable:  # nobody looks at it otherwise, and to write a number takes as long as a small layer
                bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
                bar.update()


def train_step(
    network: nn.Module,
    loss_function: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    targets: Tensor,
    clip_norm: float | None,
    weight: float | None = None,
) -> tuple[float, Tensor]:
    """Forward, loss, backward, step, on one batch: the mean loss, and the outputs (B, classes or quantities).

    Of several processes, `weight` is what these rows count in the mean over all, times the number of processes, by
    which the mean of their gradients is divided; the loss that is given back is weighted so.
    """
    first: Tensor | None = None
    weights = [each for group in optimizer.param_groups for each in group["params"]]

    def forward_and_backward() -> float:  # a closure, because LBFGS looks at a batch several times
        nonlocal first
        for each in weights:
            each.grad = None
        outputs = network(images)
        first = outputs.detach() if first is None else first  # those of the loss that `step` returns
        loss: Tensor = loss_function(outputs, targets)
        if weight is not None:
            loss = loss * weight
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(weights, clip_norm)
        return float(loss.detach())

    loss = step_of(optimizer)(forward_and_backward)
    assert first is not None
    return loss, first


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
    network: nn.Module, loss_function: nn.Module, val: tensors.Split, device: torch.device, group: Group = ALONE
) -> tuple[float, float]:
    """Mean loss and score over the validation rows, dropout off; the same in every process."""
    in_double = copy.deepcopy(loss_function).to("cpu", torch.float64)
    loss_sum, counted, found = 0.0, 0.0, torch.zeros(1, dtype=torch.float64)
    for rows, outputs in outputs_of(network, val, device, group):
        targets = val.targets[rows] if val.targets.dtype == torch.int64 else val.targets[rows].double()
        weight = losses.counted(in_double, targets)
        loss_sum += float(in_double(outputs, targets)) * weight
        counted += weight
        found = found + tasks.sums(outputs, targets)
    loss = loss_sum / counted if counted else 0.0  # nothing is counted but in the first process
    return group.from_first((loss, tasks.score(found, val.targets)))
