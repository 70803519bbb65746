"""Write example images in folders: 600 pieces of two photographs, in two classes and several formats.

    python -m experiments.example_photos FOLDER

In:  the photographs of a temple and a flower in the package scikit-learn.
Out: FOLDER/flower/ and FOLDER/temple/ with 300 images each, and FOLDER/README.txt, which is not an image.
"""

from stages.lib.core.process import run

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from commands.lib.command_line import documented, new_folder
from stages.lib.core.errors import UserError
from stages.lib.core.files import replacing_folder

CLASSES = {"flower": "flower.jpg", "temple": "china.jpg"}
PIECES = 300  # of each photograph
SIDES = (48, 96)  # pixels: the shortest and the longest side of a piece
FORMATS = ("png", "jpg", "bmp", "webp", "tif")


def main() -> None:
    parser = documented("experiments.example_photos", __doc__)
    parser.add_argument("target", type=new_folder, metavar="FOLDER", help="where to write; it must not exist yet")
    target = parser.parse_args().target
    with replacing_folder(target) as folder:
        for name in CLASSES:
            (folder / name).mkdir()
        for name, number, piece in pieces(PIECES):
            piece.save(folder / name / f"{number:03}.{FORMATS[number % len(FORMATS)]}")
        (folder / "README.txt").write_text("Pieces of two photographs that scikit-learn ships.\n", encoding="utf-8")
    print(f"{PIECES * len(CLASSES)} images of {len(CLASSES)} classes in {target}")


def pieces(count: int) -> Iterator[tuple[str, int, Image.Image]]:
    """Cut pieces of different sizes out of each photograph.

    Yields:
        The class, a number from 0 up to `count`, and the piece.
    """
    random = np.random.default_rng(0)
    for name, file in CLASSES.items():
        photograph = Image.open(photographs() / file)
        for number in range(count):
            width, height = random.integers(*SIDES, 2, endpoint=True).tolist()
            left = int(random.integers(photograph.width - width))
            top = int(random.integers(photograph.height - height))
            yield name, number, photograph.crop((left, top, left + width, top + height))


def photographs() -> Path:
    """Locate the photographs of the installed scikit-learn, without importing it.

    Raises:
        UserError: scikit-learn is not installed.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise UserError("scikit-learn is not installed; `make .venv` or `uv sync` installs it")
    return Path(package.origin).parent / "datasets/images"


if __name__ == "__main__":
    run(main, arguments=True)
