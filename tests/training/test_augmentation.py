"""Augmentation, measured on the images of a batch."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.lib.training import augmentation

ROWS = 400
TARGETS = torch.arange(ROWS) % 10


def augmented(images: Tensor, **options: float) -> Tensor:
    torch.manual_seed(0)
    return augmentation.build(options, 10)(images, TARGETS)[0]


def spot(row: int, column: int, height: int = 21, width: int = 31) -> Tensor:
    """Make black images with one white pixel."""
    images = torch.zeros(ROWS, 1, height, width)
    images[:, :, row, column] = 1.0
    return images


def centres(images: Tensor) -> Tensor:
    """Return the centre of brightness of each image: (N, 2) rows and columns."""
    weights = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    rows, columns = torch.arange(images.shape[2]).float(), torch.arange(images.shape[3]).float()
    return torch.stack([(weights.sum(2) * rows).sum(1), (weights.sum(1) * columns).sum(1)], 1)


def test_without_options_nothing_is_drawn() -> None:
    images = torch.randn(ROWS, 1, 8, 8)
    before = torch.get_rng_state()
    same, targets = augmentation.build({"shift": 0}, 10)(images, TARGETS)
    assert same is images
    assert targets is TARGETS
    assert torch.equal(torch.get_rng_state(), before)


# A flip, however improbable, makes it resample.
@pytest.mark.parametrize("other", [{}, {"flip": 1e-9}], ids=["by whole pixels", "resampled"])
def test_shift_moves_images_by_at_most_the_given_pixels(other: dict[str, float]) -> None:
    offsets = centres(augmented(spot(10, 15), shift=3, **other)) - torch.tensor([10.0, 15.0])
    assert torch.equal(offsets, offsets.round()) == (not other)
    assert offsets.abs().max() <= 3.001
    assert (offsets.min(0).values < -2.8).all()
    assert (offsets.max(0).values > 2.8).all()
    assert offsets.mean(0).abs().max() < 0.3


def test_border_pixels_fill_what_moves_in() -> None:
    images = torch.full((ROWS, 3, 9, 9), 0.7)
    for options in ({"shift": 5.0}, {"rotation": 45.0}, {"elastic": 3.0}):
        torch.testing.assert_close(augmented(images, **options), images)


def test_rotation_is_about_the_centre_by_at_most_the_given_angle() -> None:
    offsets = centres(augmented(spot(10, 25), rotation=30)) - torch.tensor([10.0, 15.0])
    torch.testing.assert_close(offsets.norm(dim=1), torch.full((ROWS,), 10.0), atol=0.3, rtol=0)
    angles = torch.atan2(offsets[:, 0], offsets[:, 1]) * 180 / math.pi
    assert angles.abs().max() < 32
    assert angles.min() < -26
    assert angles.max() > 26


def test_flip_mirrors_the_given_share_of_the_images() -> None:
    images = torch.randn(ROWS, 2, 8, 8)
    changed = augmented(images, flip=0.3)
    flipped = torch.isclose(changed, images.flip(3), atol=1e-5).all(3).all(2).all(1)
    same = torch.isclose(changed, images, atol=1e-5).all(3).all(2).all(1)
    assert (flipped ^ same).all()
    assert 0.22 < flipped.float().mean() < 0.38


def test_elastic_moves_points_by_about_the_given_pixels() -> None:
    slopes = torch.arange(64.0).expand(ROWS, 1, 64, 64)  # the value of a pixel is its column
    offsets = (augmented(slopes, elastic=2) - slopes)[:, :, 16:48, 16:48]
    assert 1.0 < offsets.std() < 2.5
    assert offsets.diff(dim=3).abs().mean() < 0.5, "neighbours move alike"


def test_erasing_clears_a_rectangle_in_the_given_share_of_the_images() -> None:
    changed = augmented(torch.ones(ROWS, 3, 40, 40), erasing=0.5)
    erased = (changed == 0).float().mean((1, 2, 3))
    assert 0.42 < (erased > 0).float().mean() < 0.58
    assert erased[erased > 0].min() > 0.01
    assert erased.max() < 0.37
    for image in changed[erased > 0][:50, 0]:
        rows, columns = (image == 0).any(1), (image == 0).any(0)
        assert (image == 0).sum() == rows.sum() * columns.sum(), "one rectangle"


def test_mixup_blends_images_and_targets_alike() -> None:
    torch.manual_seed(0)
    images = torch.nn.functional.one_hot(TARGETS, 10).float()[:, None, None, :]
    mixed, shares = augmentation.build({"mixup": 0.4}, 10)(images, TARGETS)
    torch.testing.assert_close(mixed[:, 0, 0], shares)
    torch.testing.assert_close(shares.sum(1), torch.ones(ROWS))
    assert torch.equal(shares.argmax(1), TARGETS)
    logits = torch.randn(ROWS, 10)
    expected = -(shares * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(logits, shares), expected)


@pytest.mark.parametrize("name", augmentation.OPTIONS)
def test_images_are_changed_independently_and_reproducibly(name: str) -> None:
    images = torch.randn(1, 1, 16, 16).expand(ROWS, 1, 16, 16)
    first, again = (augmented(images, **{name: 0.9}) for _ in range(2))
    assert torch.equal(first, again)
    if name not in ("flip", "mixup"):
        assert len(torch.unique(first.flatten(1), dim=0)) > ROWS * 0.7
