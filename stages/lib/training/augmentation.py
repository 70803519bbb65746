"""Augmentation of training batches: other images of the same targets, a new choice for every image of every step.

On whole batches of standardized images, where the network computes, drawn from torch's global generator, which train
seeds for each step; of several processes each draws for all rows of a batch, and uses what falls to its own. The
transforms of torchvision are not used: of a batch they change all images in the same way. What moves out of an image
leaves its border behind.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, one_hot, pad

Augment = Callable[[Tensor, Tensor, slice, int], tuple[Tensor, Tensor]]
Draw = Callable[..., Tensor]  # of a function of torch that draws, and the size of what it draws for one row

# What `augmentation` of params.yaml may hold, as JSON Schema. 0 turns each off.
OPTIONS: dict[str, Any] = {
    "shift": {"type": "number", "minimum": 0, "description": "pixels, at most, in each direction"},
    "rotation": {"type": "number", "minimum": 0, "maximum": 180, "description": "degrees, at most, either way"},
    "flip": {"type": "number", "minimum": 0, "maximum": 1, "description": "probability of exchanging left and right"},
    "elastic": {"type": "number", "minimum": 0, "description": "pixels: standard deviation of a local distortion"},
    "erasing": {"type": "number", "minimum": 0, "maximum": 1, "description": "probability of erasing a rectangle"},
    "mixup": {"type": "number", "minimum": 0, "maximum": 10, "description": "alpha of mixup's beta distribution"},
}
COARSE = 7  # pixels between two points that an elastic distortion moves independently
ERASED = (0.02, 0.33)  # share of the image that erasing takes, and
ASPECT = (0.3, 1 / 0.3)  # height to width of it (Zhong et al. 2020)


def build(options: Mapping[str, float], classes: int) -> Augment:
    """What to do to a batch: images (B, C, H, W) float32, what the loss wants, which rows of the whole batch these are,
    and of how many -> images and what the loss wants, anew.

    With mixup class numbers (B,) int64 become probabilities (B, classes), of which that of the class given is the
    largest; quantities (B, quantities) are blended as they are.
    """
    return partial(_augment, {name: float(value) for name, value in options.items() if value}, classes)


def _augment(
    options: Mapping[str, float], classes: int, images: Tensor, targets: Tensor, mine: slice, rows: int
) -> tuple[Tensor, Tensor]:
    def draw(function: Callable[..., Tensor], *size: int) -> Tensor:
        return function(rows, *size, device=images.device)[mine]

    moves = options.keys() & {"shift", "rotation", "flip", "elastic"}
    if moves == {"shift"} and options["shift"].is_integer():
        images = shifted(images, draw, int(options["shift"]))
    elif moves:
        images = moved(images, draw, options)
    if "erasing" in options:
        images = erased(images, draw, options["erasing"])
    if "mixup" in options:
        images, targets = mixed(images, targets, options["mixup"], classes)
    return images, targets


def shifted(images: Tensor, draw: Draw, most: int) -> Tensor:
    """Shifted by whole pixels, up to `most` in each direction: nothing is resampled, in a fifth of the time."""
    height, width = images.shape[2:]
    places = pad(images, [most] * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    down, across = (draw(torch.rand, 2) * (2 * most + 1)).long().unbind(1)
    return places[torch.arange(len(images), device=images.device), :, down, across]  # (B, C, H, W)


def moved(images: Tensor, draw: Draw, options: Mapping[str, float]) -> Tensor:
    """Shifted, rotated, flipped and distorted, in one resampling."""
    height, width = images.shape[2:]
    device = images.device
    angle = math.radians(options.get("rotation", 0.0)) * (2 * draw(torch.rand) - 1)
    mirrored = 1.0 - 2.0 * (draw(torch.rand) < options.get("flip", 0.0)).float()
    # In the unit of grid_sample half an image is 1.
    ways = 2 * draw(torch.rand, 2) - 1
    ways = ways * options.get("shift", 0.0) * 2 / torch.tensor([width, height], device=device)
    sine, cosine, ratio = angle.sin(), angle.cos(), height / width
    # What `affine_grid` gives, which multiplies a matrix for each image and takes ten times as long.
    x, y = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (width, height))
    of_columns = torch.stack([cosine * mirrored, sine / ratio], 1)[:, None, None] * x[:, None]  # (B, 1, W, 2)
    of_rows = torch.stack([-sine * mirrored * ratio, cosine], 1)[:, None] * y[:, None] + ways[:, None]  # (B, H, 2)
    grid = of_columns + of_rows[:, :, None]  # (B, H, W, 2)
    if elastic := options.get("elastic"):
        points = draw(torch.randn, 2, max(2, height // COARSE), max(2, width // COARSE))
        field = interpolate(points, (height, width), mode="bicubic", align_corners=False)
        grid = grid + field.permute(0, 2, 3, 1) * elastic * 2 / torch.tensor([width, height], device=device)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def erased(images: Tensor, draw: Draw, probability: float) -> Tensor:
    """A rectangle of some images set to 0, the mean of all training pixels."""
    height, width = images.shape[2:]
    area = height * width * between(draw(torch.rand), *ERASED)
    aspect = between(draw(torch.rand), *map(math.log, ASPECT)).exp()
    tall, wide = (area * aspect).sqrt().clamp(max=height), (area / aspect).sqrt().clamp(max=width)
    top, left = (draw(torch.rand, 2).T * torch.stack([height - tall, width - wide])).floor()
    chosen = draw(torch.rand) < probability
    down, across = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside_rows = (down >= top[:, None]) & (down < (top + tall)[:, None]) & chosen[:, None]  # (B, H)
    inside_columns = (across >= left[:, None]) & (across < (left + wide)[:, None])  # (B, W)
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


def between(share: Tensor, low: float, high: float) -> Tensor:
    """A number from 0 to 1 as one from `low` to `high`."""
    return low + (high - low) * share


def mixed(images: Tensor, targets: Tensor, alpha: float, classes: int) -> tuple[Tensor, Tensor]:
    """Each image blended with another of the batch, by one share for all, and the targets alike (Zhang et al. 2018).

    Of several processes each blends its own rows: those of the others are not here.
    """
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    share = max(share, 1 - share)
    other = torch.randperm(len(images), device=images.device)
    one = one_hot(targets, classes).to(images.dtype) if targets.dtype == torch.int64 else targets
    return share * images + (1 - share) * images[other], share * one + (1 - share) * one[other]
