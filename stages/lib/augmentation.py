"""Augmentation of training batches: other images of the same targets, a new choice for every image of every step.

On whole batches of standardized images, where the network computes, drawn from torch's global generator, which train
seeds for each step. The transforms of torchvision are not used: of a batch they change all images in the same way.
What moves out of an image leaves its border behind.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, one_hot, pad

Augment = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

# What `augmentation` of params.yaml may hold, as JSON Schema; none of them is in use unless it is named.
OPTIONS: dict[str, dict[str, Any]] = {
    "shift": {"type": "number", "minimum": 0, "description": "shift takes pixels: up to so many, in each direction"},
    "rotation": {
        **{"type": "number", "minimum": 0, "maximum": 180},
        "description": "rotation takes degrees, 0 to 180: up to so many, either way",
    },
    "flip": {
        **{"type": "number", "minimum": 0, "maximum": 1},
        "description": "flip takes a probability, 0 to 1: that left and right are exchanged",
    },
    "elastic": {
        **{"type": "number", "minimum": 0},
        "description": "elastic takes pixels: standard deviation of the way that a point is moved",
    },
    "erasing": {
        **{"type": "number", "minimum": 0, "maximum": 1},
        "description": "erasing takes a probability, 0 to 1: that a rectangle becomes grey",
    },
    "mixup": {
        **{"type": "number", "exclusiveMinimum": 0, "maximum": 10},
        "description": "mixup takes alpha of its beta distribution, above 0, for example 0.2",
    },
}
COARSE = 7  # pixels between two points that an elastic distortion moves independently
ERASED = (0.02, 0.33)  # share of the image that erasing takes, and
ASPECT = (0.3, 1 / 0.3)  # height to width of it (Zhong et al. 2020)


def build(options: Mapping[str, float], classes: int) -> Augment:
    """What to do to a batch: images (B, C, H, W) float32 and what the loss wants -> both anew.

    With mixup class numbers (B,) int64 become probabilities (B, classes), of which that of the class given is the
    largest; quantities (B, quantities) are blended as they are.
    """
    return partial(_augment, {name: float(value) for name, value in options.items() if value}, classes)


def _augment(options: Mapping[str, float], classes: int, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    moves = options.keys() & {"shift", "rotation", "flip", "elastic"}
    if moves == {"shift"} and options["shift"].is_integer():
        images = shifted(images, int(options["shift"]))
    elif moves:
        images = moved(images, options)
    if "erasing" in options:
        images = erased(images, options["erasing"])
    if "mixup" in options:
        images, targets = mixed(images, targets, options["mixup"], classes)
    return images, targets


def shifted(images: Tensor, most: int) -> Tensor:
    """Shifted by whole pixels, up to `most` in each direction: nothing is resampled, in a fifth of the time."""
    rows, _, height, width = images.shape
    places = pad(images, [most] * 4, mode="replicate").unfold(2, height, 1).unfold(3, width, 1)
    down, across = torch.randint(2 * most + 1, (2, rows), device=images.device)
    return places[torch.arange(rows, device=images.device), :, down, across]  # (B, C, H, W)


def moved(images: Tensor, options: Mapping[str, float]) -> Tensor:
    """Shifted, rotated, flipped and distorted, in one resampling."""
    rows, _, height, width = images.shape
    device = images.device
    angle = math.radians(options.get("rotation", 0.0)) * (2 * torch.rand(rows, device=device) - 1)
    mirrored = 1.0 - 2.0 * (torch.rand(rows, device=device) < options.get("flip", 0.0)).float()
    # In the unit of grid_sample half an image is 1.
    ways = 2 * torch.rand(rows, 2, device=device) - 1
    ways = ways * options.get("shift", 0.0) * 2 / torch.tensor([width, height], device=device)
    sine, cosine, ratio = angle.sin(), angle.cos(), height / width
    # What `affine_grid` gives, which multiplies a matrix for each image and takes ten times as long.
    x, y = ((2 * torch.arange(side, device=device) + 1) / side - 1 for side in (width, height))
    of_columns = torch.stack([cosine * mirrored, sine / ratio], 1)[:, None, None] * x[:, None]  # (B, 1, W, 2)
    of_rows = torch.stack([-sine * mirrored * ratio, cosine], 1)[:, None] * y[:, None] + ways[:, None]  # (B, H, 2)
    grid = of_columns + of_rows[:, :, None]  # (B, H, W, 2)
    if elastic := options.get("elastic"):
        points = (rows, 2, max(2, height // COARSE), max(2, width // COARSE))
        field = interpolate(torch.randn(points, device=device), (height, width), mode="bicubic", align_corners=False)
        grid = grid + field.permute(0, 2, 3, 1) * elastic * 2 / torch.tensor([width, height], device=device)
    return grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def erased(images: Tensor, probability: float) -> Tensor:
    """A rectangle of some images set to 0, the mean of all training pixels."""
    rows, _, height, width = images.shape
    area = height * width * torch.empty(rows, device=images.device).uniform_(*ERASED)
    aspect = torch.empty(rows, device=images.device).uniform_(*map(math.log, ASPECT)).exp()
    tall, wide = (area * aspect).sqrt().clamp(max=height), (area / aspect).sqrt().clamp(max=width)
    top, left = (torch.rand(2, rows, device=images.device) * torch.stack([height - tall, width - wide])).floor()
    chosen = torch.rand(rows, device=images.device) < probability
    down, across = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside_rows = (down >= top[:, None]) & (down < (top + tall)[:, None]) & chosen[:, None]  # (B, H)
    inside_columns = (across >= left[:, None]) & (across < (left + wide)[:, None])  # (B, W)
    return images.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


def mixed(images: Tensor, targets: Tensor, alpha: float, classes: int) -> tuple[Tensor, Tensor]:
    """Each image blended with another of the batch, by one share for all, and the targets alike (Zhang et al. 2018)."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    share = max(share, 1 - share)
    other = torch.randperm(len(images), device=images.device)
    one = one_hot(targets, classes).to(images.dtype) if targets.dtype == torch.int64 else targets
    return share * images + (1 - share) * images[other], share * one + (1 - share) * one[other]
