"""Random augmentation of training batches, drawn anew for every image of every step.

It works on whole batches of standardized images, on the device of the network, and draws from torch's default
generators, of which train seeds that of the device for each step. torchvision's transforms are not used: they change
all images of a batch in the same way. Pixels that move in from outside repeat the image's border.
"""

import math
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, one_hot, pad

from stages.lib.arithmetic.random import beta
from stages.lib.model.batch_rows import BatchRows

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Draw = Callable[..., Tensor]  # a random function of torch, and the size to draw for each row -> random numbers

# JSON Schema of `augmentation` in params.yaml. 0 turns each off.
OPTIONS: dict[str, Any] = {
    "shift": {"type": "number", "minimum": 0, "description": "pixels, at most, in each direction"},
    "rotation": {"type": "number", "minimum": 0, "maximum": 180, "description": "degrees, at most, either way"},
    "flip": {"type": "number", "minimum": 0, "maximum": 1, "description": "probability of exchanging left and right"},
    "elastic": {"type": "number", "minimum": 0, "description": "pixels: standard deviation of a local distortion"},
    "erasing": {"type": "number", "minimum": 0, "maximum": 1, "description": "probability of erasing a rectangle"},
    "mixup": {"type": "number", "minimum": 0, "maximum": 10, "description": "alpha of mixup's beta distribution"},
}
COARSE = 7  # pixels between two points that an elastic distortion moves independently
ERASED = (0.02, 0.33)  # share of the image that erasing takes (Zhong et al. 2020)
ASPECT = (0.3, 1 / 0.3)  # height over width of the rectangle


def build(options: Mapping[str, float], classes: int, batch: BatchRows | None = None) -> Augment:
    """Build the augmentation of a batch: images (B, C, H, W) float32 and targets of the loss -> the same, augmented.

    With mixup class numbers (B,) int64 become probabilities (B, classes), with the largest for the original class;
    quantities (B, quantities) are blended.

    Args:
        options: by their names in OPTIONS; 0 turns an option off.
        classes: number of classes; unused for a regression.
        batch: the rows of the current batch, if several ranks share it; not with mixup, which needs all rows.
    """
    active = {name: float(value) for name, value in options.items() if value}
    return partial(_augment, active, classes, batch or BatchRows())


def _augment(
    options: Mapping[str, float], classes: int, batch: BatchRows, images: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    def draw(function: Callable[..., Tensor], *size: int) -> Tensor:
        return batch.draw(function, len(images), *size, device=images.device)

    warps = options.keys() & {"shift", "rotation", "flip", "elastic"}
    if warps == {"shift"} and options["shift"].is_integer():
        images = shift(images, draw, int(options["shift"]))
    elif warps:
        images = warp(images, draw, options)
    if "erasing" in options:
        images = erase(images, draw, options["erasing"])
    if "mixup" in options:
        images, targets = mixup(images, targets, options["mixup"], classes)
    return images, targets


def shift(images: Tensor, draw: Draw, max_shift: int) -> Tensor:
    """Shift by whole pixels, up to `max_shift` each way: without resampling, in a fifth of the time of `warp`."""
    number, channels, height, width = images.shape
    padded = pad(images, [max_shift] * 4, mode="replicate")
    down, across = (draw(torch.rand, 2) * (2 * max_shift + 1)).long().unbind(1)
    # A row of a shifted image is `width` consecutive numbers of the padded images: copy it as a whole.
    of_image, of_channel, of_row, _ = padded.stride()
    numbers, planes, rows = (torch.arange(size, device=images.device) for size in (number, channels, height))
    first = (numbers * of_image + down * of_row + across)[:, None, None] + planes[:, None] * of_channel + rows * of_row
    consecutive = padded.as_strided((padded.numel() - width + 1, width), (1, 1))
    return consecutive.index_select(0, first.flatten()).view_as(images)


def warp(images: Tensor, draw: Draw, options: Mapping[str, float]) -> Tensor:
    """Shift, rotate, flip and distort, in one resampling."""
    height, width = images.shape[2:]
    device = images.device
    angle = math.radians(options.get("rotation", 0.0)) * (2 * draw(torch.rand) - 1)
    mirrored = 1.0 - 2.0 * (draw(torch.rand) < options.get("flip", 0.0)).float()
    # In the units of grid_sample half an image is 1.
    offsets = 2 * draw(torch.rand, 2) - 1
    offsets = offsets * options.get("shift", 0.0) * 2 / torch.tensor([width, height], device=device)
    sine, cosine, ratio = angle.sin(), angle.cos(), height / width
    # The same as `affine_grid`, which multiplies a matrix per image and takes ten times as long.
    x, y = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (width, height))
    from_columns = torch.stack([cosine * mirrored, sine / ratio], 1)[:, None, None] * x[:, None]  # (B, 1, W, 2)
    from_rows = torch.stack([-sine * mirrored * ratio, cosine], 1)[:, None] * y[:, None] + offsets[:, None]  # (B, H, 2)
    grid = from_columns + from_rows[:, :, None]  # (B, H, W, 2)
    if elastic := options.get("elastic"):
        rows, columns = max(2, height // COARSE), max(2, width // COARSE)
        field = interpolate(draw(torch.randn, 2, rows, columns), (height, width), mode="bicubic", align_corners=False)
        down, across = (
            torch.tensor(bicubic_spread(points, size), device=device)
            for points, size in ((rows, height), (columns, width))
        )
        field = field / (down[:, None] * across)  # a standard deviation of 1 everywhere
        grid = grid + field.permute(0, 2, 3, 1) * elastic * 2 / torch.tensor([width, height], device=device)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


@cache
def bicubic_spread(points: int, size: int) -> list[float]:
    """Return the standard deviation at each of `size` places between independent points of standard deviation 1.

    The weights are those of torch's bicubic interpolation without aligned corners (Keys 1981, a = -0.75), which repeats
    the outer points.
    """
    spreads = []
    for place in range(size):
        at = (place + 0.5) * points / size - 0.5
        first = math.floor(at)
        weights = [0.0] * points
        for neighbour in range(first - 1, first + 3):
            x = abs(at - neighbour)
            near = (1.25 * x - 2.25) * x * x + 1
            far = -0.75 * (((x - 5) * x + 8) * x - 4)
            weights[min(max(neighbour, 0), points - 1)] += near if x <= 1 else far
        spreads.append(math.sqrt(sum(weight * weight for weight in weights)))
    return spreads


def erase(images: Tensor, draw: Draw, probability: float) -> Tensor:
    """Set a rectangle of some images to 0, the mean of all training pixels: of whole pixels, and anywhere as likely."""
    height, width = images.shape[2:]
    area = height * width * scaled(draw(torch.rand), *ERASED)
    aspect = scaled(draw(torch.rand), *map(math.log, ASPECT)).exp()
    # Rounded down, so that it takes no more of the image than stated.
    tall = (area * aspect).sqrt().clamp(1, height).floor()
    wide = (area / aspect).sqrt().clamp(1, width).floor()
    places = torch.stack([height - tall, width - wide]) + 1  # where it can begin
    top, left = torch.minimum((draw(torch.rand, 2).T * places).floor(), places - 1)
    chosen = draw(torch.rand) < probability
    down, across = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside_rows = (down >= top[:, None]) & (down < (top + tall)[:, None]) & chosen[:, None]  # (B, H)
    inside_columns = (across >= left[:, None]) & (across < (left + wide)[:, None])  # (B, W)
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


def scaled(share: Tensor, low: float, high: float) -> Tensor:
    """Scale numbers from [0, 1] to [low, high]."""
    return low + (high - low) * share


def mixup(images: Tensor, targets: Tensor, alpha: float, classes: int) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with another of the batch, by one share for all (Zhang et al. 2018)."""
    share = beta(alpha)
    share = max(share, 1 - share)
    other = torch.randperm(len(images)).to(images.device)
    values = one_hot(targets, classes).to(images.dtype) if targets.dtype == torch.int64 else targets
    return share * images + (1 - share) * images[other], share * values + (1 - share) * values[other]
