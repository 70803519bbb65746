"""Augmentation, measured on the images of a batch."""

import math

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor
from torch.nn.functional import cross_entropy

from stages.lib.arithmetic.random import beta
from stages.lib.training import augmentation

ROWS = 400
TARGETS = torch.arange(ROWS) % 10


def augmented(images: Tensor, **options: float) -> Tensor:
    torch.manual_seed(int(options.pop("seed", 0)))
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


@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 40), (8, 8)])
def test_elastic_moves_points_by_the_given_standard_deviation(height: int, width: int) -> None:
    """Everywhere: where a pixel's value is its column, the change of an image is how far its pixels moved."""
    slopes = 100 + torch.arange(2.0 * width).expand(ROWS, 1, height, 2 * width)
    inside = (slice(None), slice(None), slice(None), slice(width // 2, width + width // 2))  # the border repeats
    offsets = torch.cat([(augmented(slopes, seed=seed, elastic=0.5) - slopes)[inside] for seed in range(4)])
    torch.testing.assert_close(offsets.std(0), torch.full(offsets.shape[1:], 0.5), rtol=0.1, atol=0)
    assert float(offsets.square().mean().sqrt()) == pytest.approx(0.5, rel=0.02)
    assert offsets.diff(dim=3).abs().mean() < 0.3, "neighbours move alike"


def test_erasing_clears_a_rectangle_in_the_given_share_of_the_images() -> None:
    changed = torch.cat([augmented(torch.ones(ROWS, 1, 28, 28), seed=seed, erasing=0.5) for seed in range(50)])
    empty = changed[:, 0] == 0
    erased = empty.float().mean((1, 2))
    assert float((erased > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    assert erased.max() <= 0.33
    assert 0.01 < erased[erased > 0].min() < 0.02, "rounded down to whole pixels"
    for image in empty[erased > 0][:50]:
        assert image.sum() == image.any(1).sum() * image.any(0).sum(), "one rectangle"
    share = empty.float().mean(0)
    torch.testing.assert_close(share, share.flip(0), rtol=0.15, atol=0.01, msg="above as often as below")
    torch.testing.assert_close(share, share.flip(1), rtol=0.15, atol=0.01, msg="left as often as right")
    assert share[-1].mean() > 0.01


def test_draws_are_uniform() -> None:
    """Shift by whole pixels, in which each of seven places is as likely, and rotation, whose angle is uniform."""
    offsets = torch.cat([centres(augmented(spot(10, 15), seed=seed, shift=3)) for seed in range(20)]) - torch.tensor(
        [10, 15]
    )
    for axis in offsets.T:
        counts = torch.bincount(axis.round().long() + 3, minlength=7)
        assert float(((counts - len(axis) / 7) ** 2 / (len(axis) / 7)).sum()) < 22.5, "chi-square with 6 degrees, 0.1 %"
    turned = torch.cat([centres(augmented(spot(10, 25), seed=seed, rotation=30)) for seed in range(20)])
    angles = torch.atan2(turned[:, 0] - 10, turned[:, 1] - 15) * 180 / math.pi
    assert float(angles.mean()) == pytest.approx(0, abs=0.7)
    assert float(angles.std()) == pytest.approx(60 / math.sqrt(12), rel=0.03)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_share_of_mixup_is_of_a_beta_distribution(alpha: float) -> None:
    torch.manual_seed(0)
    shares = [beta(alpha) for _ in range(2000)]
    assert kstest(shares, "beta", (alpha, alpha)).pvalue > 0.001


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
