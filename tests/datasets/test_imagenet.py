"""ImageNet: archives of the official layout, with a few tiny images of five classes."""

import io
import os
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from torchvision.datasets import imagenet

from stages import cache, download, normalize
from stages.lib.core.errors import UserError
from stages.lib.datasets.imagenet import ImageNet
from stages.lib.datasets.table import DATASETS
from stages.lib.splits import shards
from tests.datasets.test_folder import choose, photo, splits
from tests.datasets.test_torchvision_arrays import md5

# Number, wnid, names. The official numbers are not in the order of the wnids, and two classes are called crane.
SYNSETS = [
    (1, "n03000000", "crane"),
    (2, "n01000000", "tench, Tinca tinca"),
    (3, "n02000000", "crane, wading bird"),
    (4, "n04000000", "zebra"),
    (5, "n05000000", "yurt"),
]
COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (250, 250, 20), (20, 250, 250)]  # by number
TRAIN, VAL = 10, 2  # images of each class


def jpeg(colour: tuple[int, int, int], seed: int) -> bytes:
    content = io.BytesIO()
    photo(colour, seed, size=(40, 24)).save(content, "JPEG", quality=95)
    return content.getvalue()


def tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


@pytest.fixture
def mirror(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the three archives, whose md5 replace the official ones."""
    table = np.zeros(6, dtype=[(name, object) for name in ("id", "wnid", "words", "gloss", "num_children", "children")])
    for row, synset in enumerate([*SYNSETS, (6, "n00000001", "entity")]):
        table[row] = (*synset, "", 2 if row == 5 else 0, [])
    meta = io.BytesIO()
    scipy.io.savemat(meta, {"synsets": table})
    val = [number for number in (3, 1, 5, 2, 4) for _ in range(VAL)]
    devkit = {
        "data/meta.mat": meta.getvalue(),
        "data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in val).encode(),
    }
    train = {
        f"{wnid}.tar": tar({f"{wnid}_{at}.JPEG": jpeg(COLOURS[number - 1], at) for at in range(TRAIN)})
        for number, wnid, _ in SYNSETS
    }
    archives = {
        "devkit": tar({f"ILSVRC2012_devkit_t12/{name}": data for name, data in devkit.items()}, "w:gz"),
        "train": tar(train),
        "val": tar(
            {
                f"ILSVRC2012_val_{at:08}.JPEG": jpeg(COLOURS[number - 1], 100 + at)
                for at, number in enumerate(val, start=1)
            }
        ),
    }
    mirror = folder / "archives"
    mirror.mkdir()
    known = {}
    for name, content in archives.items():
        file = imagenet.ARCHIVE_META[name][0]
        (mirror / file).write_bytes(content)
        known[name] = (file, md5(content))
    monkeypatch.setattr(imagenet, "ARCHIVE_META", known)
    monkeypatch.setitem(DATASETS, "imagenet", ImageNet(tuple(known.values())))
    monkeypatch.setenv("DATASET_MIRROR", str(mirror))
    choose(dataset="imagenet", image_size=16)
    return mirror


def test_images_and_their_classes(mirror: Path, capsys: pytest.CaptureFixture[str]) -> None:
    download.main()
    assert "left in DATASET_MIRROR" in capsys.readouterr().out
    assert [path.name for path in download.RAW.rglob("*") if path.is_file()] == ["dataset.json"]
    assert str(mirror) not in (download.RAW / "dataset.json").read_text(), "it is hashed"
    normalize.main()
    cache.main()
    classes, stored = splits()
    assert classes == ["tench", "crane (n02000000)", "crane (n03000000)", "zebra", "yurt"]
    assert {name: len(images) for name, (images, _, _) in stored.items()} == {"train": 45, "val": 5, "test": 10}
    by_class = [COLOURS[1], COLOURS[2], COLOURS[0], COLOURS[3], COLOURS[4]]
    for images, targets, _ in stored.values():
        assert images.shape[1:] == (3, 16, 16)
        for image, target in zip(images, targets, strict=True):
            assert np.abs(image.mean((1, 2)) - by_class[target]).max() < 20
    np.testing.assert_array_equal(np.bincount(stored["test"][1]), [VAL] * 5)
    files = shards.read(cache.TENSORS / "test").files()
    assert files is not None
    assert sorted(Path(file).name for file in files) == [f"ILSVRC2012_val_{at:08}.JPEG" for at in range(1, 11)]
    assert [file.split("/")[:2] for file in files] == [["val", f"n0{target + 1}000000"] for target in stored["test"][1]]
    assert not normalize.UNPACKED.exists()


def test_the_archives_may_be_elsewhere_on_another_machine(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    download.main()
    before = (download.RAW / "dataset.json").read_bytes()
    mirror.rename(mirror.parent / "elsewhere")
    with pytest.raises(UserError, match="archives.*expected the folder that holds"):
        download.main()
    with pytest.raises(UserError, match="DATASET_MIRROR: found .*archives, expected the folder with the archives"):
        normalize.main()
    monkeypatch.setenv("DATASET_MIRROR", str(mirror.parent / "elsewhere"))
    normalize.main()
    download.main()
    assert (download.RAW / "dataset.json").read_bytes() == before
    assert shards.read(normalize.NORMALIZED / "test").description.dataset == "imagenet"


def test_missing_and_changed_archives_are_named(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    val = mirror / "ILSVRC2012_img_val.tar"
    content = val.read_bytes()
    val.write_bytes(content[:-1] + b"x")
    with pytest.raises(UserError, match="ILSVRC2012_img_val.tar: md5 .*, expected .*; download it again"):
        download.main()
    val.unlink()
    with pytest.raises(UserError, match="ILSVRC2012_img_val.tar: not found; image-net.org offers it"):
        download.main()
    val.write_bytes(content)
    download.main()
    shutil.copyfile(mirror / "ILSVRC2012_img_train.tar", val)  # changed after download
    with pytest.raises(UserError, match="the files of imagenet are missing or damaged"):
        normalize.main()
    monkeypatch.delenv("DATASET_MIRROR")
    with pytest.raises(UserError, match="DATASET_MIRROR: found nothing, expected the folder that holds"):
        download.main()
    assert "DATASET_MIRROR" not in os.environ
