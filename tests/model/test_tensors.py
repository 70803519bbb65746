"""Tensors for training: standardized when stored or when used, in memory or on disk."""

from pathlib import Path

import pytest
import torch

from stages import cache, download, normalize
from stages.lib.core import SPLITS
from stages.lib.model import tensors
from stages.lib.model.tensors import Standardize
from tests.conftest import set_parameters
from tests.splits.test_shards import DESCRIPTION, IMAGES, TARGETS, write, write_normalized


def stored(dtype: str) -> torch.Tensor:
    """Run cache and return the val images as it stores them."""
    set_parameters(Path("params.yaml"), storage_dtype=dtype)
    cache.main()
    images = tensors.read(cache.TENSORS / "val", memory=1 << 20).images
    assert isinstance(images, torch.Tensor)
    assert str(images.dtype) == f"torch.{dtype}"
    return images


def test_standardizing_bytes_agrees_with_stored_standardized_images(folder: Path) -> None:
    write_normalized(folder)
    exact = (torch.from_numpy(IMAGES).double() / 255 - 0.5) / 0.25
    assert torch.equal(stored("float32"), exact.float())
    assert torch.equal(stored("float16"), exact.float().half())
    on_the_fly = Standardize(DESCRIPTION)(stored("uint8"))
    assert on_the_fly.dtype == torch.float32
    torch.testing.assert_close(on_the_fly.double(), exact, rtol=0, atol=4e-7)
    assert torch.equal(stored("uint8"), torch.from_numpy(IMAGES)), "bytes are stored unchanged"


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_standardized_training_pixels_have_mean_0_and_std_1(folder: Path, dtype: str) -> None:
    set_parameters(Path("params.yaml"), storage_dtype=dtype)
    download.main()
    normalize.main()
    cache.main()
    train = tensors.read(cache.TENSORS / "train", memory=1 << 24)
    images = Standardize(train.description)(train.rows(0, len(train))).double()
    assert images.shape == (3500, 1, 28, 28)
    assert abs(images.mean()) < 1e-6
    assert abs(images.std(correction=0) - 1) < 1e-6
    index = torch.cat([tensors.read(cache.TENSORS / split, memory=0).index for split in SPLITS])
    assert index.unique().numel() == 5000


@pytest.mark.parametrize("memory", [0, 1599, 1600])
def test_rows_are_the_same_in_memory_and_on_disk(tmp_path: Path, memory: int) -> None:
    split = tensors.read(write(tmp_path / "train"), memory)
    assert isinstance(split.images, torch.Tensor) == (memory == 1600)
    assert len(split) == 100
    assert split.targets.tolist() == TARGETS.tolist()
    for first, last in ((0, 100), (40, 41), (99, 100)):
        assert torch.equal(split.rows(first, last), torch.from_numpy(IMAGES[first:last]))
