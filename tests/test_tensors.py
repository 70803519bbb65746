"""From normalized to tensor files and back."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from stages import cache
from stages.lib import normalized, tensors
from stages.lib.description import DataDescription
from stages.lib.stage import UserError

DESCRIPTION = DataDescription(dataset="made up", classes=["a", "b"], shape=(1, 4, 4), mean=[0.5], std=[0.25])
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), np.uint8)
TARGETS = np.arange(20) % 2
INDEX = np.arange(20) * 3


def write(path: Path) -> Path:
    tensors.write(path, cache.standardize(IMAGES, [0.5], [0.25]), TARGETS, INDEX, DESCRIPTION)
    return path


def test_round_trip(tmp_path: Path) -> None:
    split = tensors.read(write(tmp_path / "train.safetensors"))
    expected = (torch.from_numpy(IMAGES).double() / 255 - 0.5) / 0.25
    assert torch.equal(split.images, expected.float())
    assert split.targets.tolist() == TARGETS.tolist()
    assert split.index.tolist() == INDEX.tolist()
    assert split.description == DESCRIPTION
    assert len(split) == 20


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a").read_bytes() == write(tmp_path / "b").read_bytes()


def test_standardized_training_pixels_have_mean_0_and_std_1(folder: Path) -> None:
    from stages import download, normalize

    download.main()
    normalize.main()
    cache.main()
    images = tensors.read(cache.TENSORS / "train.safetensors").images.double()
    assert images.shape == (3500, 1, 28, 28)
    assert abs(images.mean()) < 1e-6
    assert abs(images.std(correction=0) - 1) < 1e-6
    splits = [tensors.read(cache.TENSORS / f"{split}.safetensors").index for split in normalized.SPLITS]
    assert torch.cat(splits).unique().numel() == 5000


def test_float16_is_the_rounded_float32(folder: Path) -> None:
    write_normalized(folder)
    cache.main()
    full = tensors.read(cache.TENSORS / "val.safetensors").images
    path = folder / "params.yaml"
    path.write_text(path.read_text().replace("storage_dtype: float32", "storage_dtype: float16"))
    cache.main()
    half = tensors.read(cache.TENSORS / "val.safetensors").images
    assert half.dtype == torch.float16
    assert torch.equal(half, full.half())


def write_normalized(folder: Path) -> None:
    normalized_folder = folder / cache.NORMALIZED
    normalized_folder.mkdir(parents=True)
    sha256: dict[str, str] = {}
    for split in normalized.SPLITS:
        sha256 |= normalized.write_split(normalized_folder, split, IMAGES, TARGETS, INDEX)
    normalized.write_statistics(normalized_folder, DESCRIPTION, sha256)


@pytest.mark.parametrize("keep", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path / "train.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match="train.safetensors: missing or damaged .*`dvc repro --force cache`"):
        tensors.read(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="train.safetensors: missing or damaged"):
        tensors.read(tmp_path / "train.safetensors")


def test_one_changed_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train.safetensors")
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(UserError, match="train.safetensors: missing or damaged"):
            tensors.read(path)


def flipped(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


def cut(content: bytes) -> bytes:
    return content[:-3]


@pytest.mark.parametrize("damage", [flipped, cut])
@pytest.mark.parametrize("name", ["train_images.npy", "val_targets.npy", "statistics.json"])
def test_damaged_normalized_files_are_refused(folder: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    write_normalized(folder)
    path = folder / cache.NORMALIZED / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{name}: missing or damaged .*`dvc repro --force normalize`"):
        cache.main()
    assert not cache.TENSORS.exists()
