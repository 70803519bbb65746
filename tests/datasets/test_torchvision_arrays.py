"""Data sets whose files are not as MNIST's: small files of the same formats."""

import bz2
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torchvision

from stages import download, normalize
from tests.stages.test_download import choose, idx, published, read

ROWS = {"train": 30, "test": 20}
Arrays = dict[str, np.ndarray]
Make = Callable[[Path, pytest.MonkeyPatch, Arrays, Arrays], None]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def tar_gz(files: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return content.getvalue()


def make_cifar(class_name: str, key: str, classes: int) -> Make:
    """Write pickled batches in a tar, each with its md5."""

    def make(mirror: Path, monkeypatch: pytest.MonkeyPatch, images: Arrays, targets: Arrays) -> None:
        source = getattr(torchvision.datasets, class_name)
        names = "label_names" if key == "labels" else "fine_label_names"
        batches = {
            part: pickle.dumps({"data": images[part].reshape(ROWS[part], -1), key: targets[part].tolist()})
            for part in ROWS
        }
        files = batches | {"meta": pickle.dumps({names: [f"class {number}" for number in range(classes)]})}
        content = tar_gz({f"{source.base_folder}/{name}": data for name, data in files.items()})
        (mirror / source.filename).write_bytes(content)
        monkeypatch.setattr(source, "tgz_md5", md5(content))
        monkeypatch.setattr(source, "train_list", [["train", md5(batches["train"])]])
        monkeypatch.setattr(source, "test_list", [["test", md5(batches["test"])]])
        monkeypatch.setattr(source, "meta", {"filename": "meta", "key": names, "md5": md5(files["meta"])})

    return make


def make_svhn(mirror: Path, monkeypatch: pytest.MonkeyPatch, images: Arrays, targets: Arrays) -> None:
    """Write Matlab files: images (H, W, C, N), and 10 for the digit 0."""
    known = {}
    for part, (address, name, _) in torchvision.datasets.SVHN.split_list.items():
        if part in ROWS:
            labels = np.where(targets[part] == 0, 10, targets[part])[:, None]
            scipy.io.savemat(mirror / name, {"X": images[part].transpose(2, 3, 1, 0), "y": labels}, do_compression=True)
            known[part] = [address, name, md5((mirror / name).read_bytes())]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", known)


def make_usps(mirror: Path, monkeypatch: pytest.MonkeyPatch, images: Arrays, targets: Arrays) -> None:
    """Write lines of text: the digit plus 1, then `column:value` with values from -1 to 1."""
    known = {}
    for part, (address, name, _) in torchvision.datasets.USPS.split_list.items():
        lines = [
            f"{target + 1} " + " ".join(f"{at + 1}:{value / 127.5 - 1:.6f}" for at, value in enumerate(image.ravel()))
            for image, target in zip(images[part], targets[part], strict=True)
        ]
        content = bz2.compress("\n".join(lines).encode())
        (mirror / name).write_bytes(content)
        known[part] = [address, name, md5(content)]
    monkeypatch.setattr(torchvision.datasets.USPS, "split_list", known)


def make_emnist(mirror: Path, monkeypatch: pytest.MonkeyPatch, images: Arrays, targets: Arrays) -> None:
    """Write one zip of gzipped IDX files for all splits: rows and columns exchanged, letters from 1."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for split in ("letters", "digits"):
            for part in ROWS:
                name = f"gzip/emnist-{split}-{part}"
                labels = targets[part] + (split == "letters")
                archive.writestr(f"{name}-images-idx3-ubyte.gz", idx(images[part][:, 0].swapaxes(1, 2)))
                archive.writestr(f"{name}-labels-idx1-ubyte.gz", idx(labels.astype(np.uint8)))
    (mirror / "gzip.zip").write_bytes(content.getvalue())


def make_stl10(mirror: Path, monkeypatch: pytest.MonkeyPatch, images: Arrays, targets: Arrays) -> None:
    """Write uint8 (N, C, W, H) and class numbers from 1, in a tar with the class names."""
    source = torchvision.datasets.STL10
    files = {"class_names.txt": b"\n".join(f"class {number}".encode() for number in range(10))}
    for part in ROWS:
        files[f"{part}_X.bin"] = images[part].swapaxes(2, 3).tobytes()
        files[f"{part}_y.bin"] = (targets[part] + 1).astype(np.uint8).tobytes()
    content = tar_gz({f"{source.base_folder}/{name}": data for name, data in files.items()})
    (mirror / source.filename).write_bytes(content)
    monkeypatch.setattr(source, "tgz_md5", md5(content))
    for part in ROWS:
        listed = [[name, md5(data)] for name, data in files.items() if name.startswith(part)]
        monkeypatch.setattr(source, f"{part}_list", listed)


def make_semeion(mirror: Path, monkeypatch: pytest.MonkeyPatch, images: Arrays, targets: Arrays) -> None:
    """Write lines of text: 256 pixels, 0 or 1, then the digit, one-hot. No test part."""
    pixels = np.concatenate([images[part].reshape(ROWS[part], -1) // 128 for part in ROWS])
    images["all"], targets["all"] = pixels.reshape(-1, 1, 16, 16) * np.uint8(255), np.concatenate([*targets.values()])
    np.savetxt(mirror / "semeion.data", np.hstack([pixels, np.eye(10)[targets["all"]]]), "%.4f")
    content = (mirror / "semeion.data").read_bytes()
    monkeypatch.setattr(torchvision.datasets.SEMEION, "md5_checksum", md5(content))


DIGITS = tuple("0123456789")
NAMED = tuple(f"class {number}" for number in range(10))
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
CASES: dict[str, tuple[Make, tuple[int, int, int], tuple[str, ...]]] = {
    "cifar10": (make_cifar("CIFAR10", "labels", 10), (3, 32, 32), NAMED),
    "cifar100": (
        make_cifar("CIFAR100", "fine_labels", 100),
        (3, 32, 32),
        tuple(f"class {number}" for number in range(100)),
    ),
    "svhn": (make_svhn, (3, 32, 32), DIGITS),
    "usps": (make_usps, (1, 16, 16), DIGITS),
    "emnist-letters": (make_emnist, (1, 28, 28), LETTERS),
    "emnist-digits": (make_emnist, (1, 28, 28), DIGITS),
    "semeion": (make_semeion, (1, 16, 16), DIGITS),
    "stl10": (make_stl10, (3, 96, 96), NAMED),
}


@pytest.mark.parametrize("dataset", CASES)
def test_reads_images_and_targets(folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str) -> None:
    make, shape, classes = CASES[dataset]
    random = np.random.default_rng(0)
    images = {part: random.integers(0, 256, (rows, *shape), np.uint8) for part, rows in ROWS.items()}
    targets = {part: np.arange(rows) % 10 for part, rows in ROWS.items()}
    mirror = folder / "mirror"
    mirror.mkdir()
    make(mirror, monkeypatch, images, targets)
    published(dataset, mirror, monkeypatch)
    choose(dataset)
    download.main()
    parts, labels = read()
    assert labels == classes
    assert list(parts) == (["all"] if "all" in images else ["train", "test"])
    for part in parts:
        difference = parts[part].images[:].astype(int) - images[part]
        assert np.abs(difference).max() <= (dataset == "usps"), "its text has fewer digits than the pixels"
        np.testing.assert_array_equal(parts[part].targets, targets[part])
    assert not normalize.UNPACKED.exists()
