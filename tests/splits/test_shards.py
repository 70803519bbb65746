"""Splits on disk: lossless round trip, shards of limited size, and refusal of damaged files."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from stages import cache
from stages.lib.core import SPLITS
from stages.lib.core.errors import UserError
from stages.lib.core.sealed import seal, unseal
from stages.lib.splits import shards
from stages.lib.splits.description import DataDescription

DESCRIPTION = DataDescription(dataset="made up", classes=["a", "b"], shape=(1, 4, 4), mean=[0.5], std=[0.25])
IMAGES = np.random.default_rng(0).integers(0, 256, (100, 1, 4, 4), np.uint8)
TARGETS = np.arange(100) % 2
INDEX = np.arange(100) * 3
FILES = [
    [f"a/{row}.png", f"é 数 \U0001f600{row}", f"line\nline\r{row}", f'"{row}",', f"{row:0250}"][row % 5]
    for row in range(100)
]


def write(folder: Path, images: np.ndarray = IMAGES, block: int = 7, files: list[str] | None = None) -> Path:
    writer = shards.Writer(folder, DESCRIPTION.shape, images.dtype)
    for first in range(0, len(images), block):
        rows = slice(first, first + block)
        writer.append(images[rows], TARGETS[rows], INDEX[rows], files and files[rows])
    assert writer.finish(DESCRIPTION, "cache") == len(images)
    return folder


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit a shard to ten images."""
    monkeypatch.setattr(shards, "SHARD", 160)


@pytest.mark.parametrize("block", [1, 7, 10, 33, 100])
def test_round_trip(tmp_path: Path, small_shards: None, block: int) -> None:
    split = shards.read(write(tmp_path / "train", block=block))
    expected = [*(f"0000{number}.safetensors" for number in range(10)), shards.SPLIT]
    assert sorted(path.name for path in split.folder.iterdir()) == expected
    assert len(split) == 100
    assert split.description == DESCRIPTION
    np.testing.assert_array_equal(split.labels("targets"), TARGETS)
    np.testing.assert_array_equal(split.labels("index"), INDEX)
    for first, last in ((0, 100), (0, 0), (3, 4), (9, 11), (10, 20), (95, 100), (5, 77)):
        np.testing.assert_array_equal(split.images(first, last), IMAGES[first:last])


def test_shards_have_a_limited_size(tmp_path: Path, small_shards: None) -> None:
    for dtype, shard_count in ((np.uint8, 10), (np.float16, 20), (np.float32, 50)):
        folder = write(tmp_path / np.dtype(dtype).name, IMAGES.astype(dtype))
        assert len(list(folder.glob("*.safetensors"))) == shard_count
        assert shards.read(folder).dtype == dtype


def test_shards_do_not_depend_on_the_block_size(tmp_path: Path, small_shards: None) -> None:
    folders = [write(tmp_path / str(block), block=block) for block in (1, 13, 100)]
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert contents[0] == contents[1] == contents[2]


def write_normalized(folder: Path, files: list[str] | None = None) -> None:
    for split in SPLITS:
        write(folder / cache.NORMALIZED / split, files=files if split == "test" else None)


def flip_bit(content: bytes) -> bytes:
    return content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]


@pytest.mark.parametrize("damage", [flip_bit, lambda content: content[:-3], lambda _: b"", lambda content: content * 2])
@pytest.mark.parametrize("name", ["train/00000.safetensors", "val/00003.safetensors", "test/split.json"])
def test_damaged_files_are_refused(
    folder: Path, small_shards: None, name: str, damage: Callable[[bytes], bytes]
) -> None:
    write_normalized(folder)
    path = folder / cache.NORMALIZED / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{name}: missing or damaged .*`dvc repro --force normalize`"):
        cache.main()
    assert not cache.TENSORS.exists()


def test_missing_files_are_refused(folder: Path, small_shards: None) -> None:
    write_normalized(folder)
    cache.main()
    (cache.TENSORS / "train/00004.safetensors").unlink()
    with pytest.raises(UserError, match="train/00004.safetensors: missing or damaged .*`dvc repro --force cache`"):
        shards.read(cache.TENSORS / "train")
    with pytest.raises(UserError, match="nowhere/split.json: missing or damaged"):
        shards.read(Path("nowhere"))


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "train") / "00000.safetensors"
    content = path.read_bytes()
    for position in [*range(0, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        with pytest.raises(UserError, match="00000.safetensors: missing or damaged"):
            shards.read(path.parent)


@pytest.mark.parametrize("files", [None, FILES])
def test_cache_copies_uint8_shards_unchanged(folder: Path, small_shards: None, files: list[str] | None) -> None:
    """DVC's cache is addressed by content, so it stores identical shards once."""
    write_normalized(folder, files)
    cache.main()
    for split in SPLITS:
        for path in sorted((cache.NORMALIZED / split).glob("*.safetensors")):
            assert (cache.TENSORS / split / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("block", [1, 7, 100])
def test_file_names_round_trip(tmp_path: Path, small_shards: None, block: int) -> None:
    split = shards.read(write(tmp_path / "test", block=block, files=FILES))
    assert split.files() == FILES
    np.testing.assert_array_equal(split.images(0, 100), IMAGES)
    assert {path.read_bytes() for path in split.folder.iterdir()} == {
        path.read_bytes() for path in write(tmp_path / "same", block=13, files=FILES).iterdir()
    }


def test_a_split_without_file_names_stores_no_file_name_tensors(tmp_path: Path) -> None:
    folder = write(tmp_path / "test")
    assert set(load_file(folder / "00000.safetensors")) == {"images", "targets", "index"}
    assert shards.read(folder).files() is None


def test_a_file_name_that_is_not_utf_8_is_escaped(tmp_path: Path) -> None:
    files = [*FILES[:-1], os.fsdecode(b"odd \xff.png")]
    split = shards.read(write(tmp_path / "test", files=files))
    assert split.files() == [*FILES[:-1], "odd \\udcff.png"]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_cache_keeps_file_names(folder: Path, small_shards: None, dtype: str) -> None:
    """Shards of floats hold fewer rows than those of normalize, so file names move between shards."""
    write_normalized(folder, FILES)
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("storage_dtype: uint8", f"storage_dtype: {dtype}"))
    cache.main()
    split = shards.read(cache.TENSORS / "test")
    assert split.dtype == dtype
    assert split.files() == FILES
    assert shards.read(cache.TENSORS / "train").files() is None


def replace_tensors(**tensors: np.ndarray | None) -> Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]:
    """Return a function that replaces tensors of a shard; None removes a tensor."""
    return lambda stored: {name: array for name, array in (stored | tensors).items() if array is not None}


ENDS = np.arange(1, 11)


@pytest.mark.parametrize(
    "change",
    [
        replace_tensors(files=None),
        replace_tensors(file_ends=None),
        replace_tensors(files=None, file_ends=None),
        replace_tensors(files=np.zeros(10, np.int64), file_ends=ENDS),
        replace_tensors(files=np.zeros((2, 5), np.uint8), file_ends=ENDS),
        replace_tensors(files=np.zeros(9, np.uint8), file_ends=ENDS),
        replace_tensors(files=np.zeros(11, np.uint8), file_ends=ENDS),
        replace_tensors(files=np.zeros(10, np.uint8), file_ends=ENDS[:9]),
        replace_tensors(files=np.zeros(9, np.uint8), file_ends=ENDS[:9]),
        replace_tensors(files=np.zeros(10, np.uint8), file_ends=ENDS.astype(np.int32)),
        replace_tensors(files=np.zeros(10, np.uint8), file_ends=np.array([0, *ENDS[1:]])),
        replace_tensors(files=np.zeros(10, np.uint8), file_ends=np.array([1, 3, 2, *ENDS[3:]])),
        replace_tensors(files=np.zeros(10, np.uint8), file_ends=np.array([2**63 - 1, -(2**63), *ENDS[2:]])),
        replace_tensors(files=np.full(10, 0xFF, np.uint8), file_ends=ENDS),
        replace_tensors(files=np.frombuffer("é".encode() * 5, np.uint8), file_ends=ENDS),
        replace_tensors(files=np.zeros(0, np.uint8), file_ends=np.zeros(0, np.int64)),
        replace_tensors(index=np.zeros(10, np.int32)),
        replace_tensors(targets=np.zeros(10, np.float16)),
    ],
)
@pytest.mark.parametrize("shard", [0, 4])
def test_an_invalid_shard_with_a_valid_checksum_is_refused(
    tmp_path: Path, small_shards: None, shard: int, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> None:
    folder = write(tmp_path / "test", files=FILES)
    path = folder / f"{shard:05}.safetensors"
    save_file(change(load_file(path)), path)
    fields = unseal((folder / shards.SPLIT).read_text())
    fields["shards"][shard]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / shards.SPLIT).write_text(seal(fields))
    with pytest.raises(UserError, match=r"\.safetensors: missing or damaged \(.+\); `dvc repro") as error:
        shards.read(folder)
    assert "\n" not in str(error.value)
