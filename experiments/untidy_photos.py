"""Write example images as people really have them: splits of other names, clutter, odd files and formats.

    python -m experiments.untidy_photos FOLDER

In:  as in `experiments.example_photos`.
Out: FOLDER/My photos/{Train,Test,Unsorted}/ and what is around them.
"""

from stages.lib.core.process import run

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

from commands.lib.command_line import documented, new_folder
from experiments.example_photos import pieces
from stages.lib.core.files import replacing_folder

CLASSES = {"flower": "Bl\N{LATIN SMALL LETTER U WITH DIAERESIS}te", "temple": "Tempel"}
PIECES = 200  # of each class
EVERY = 4  # so many in Train for one in Test
TEN_BITS = 1023


def main() -> None:
    parser = documented("experiments.untidy_photos", __doc__)
    parser.add_argument("target", type=new_folder, metavar="FOLDER", help="where to write; it must not exist yet")
    target = parser.parse_args().target
    with replacing_folder(target) as folder:
        photos = folder / "My photos"
        for name, number, piece in pieces(PIECES):
            split = "Train" if number % EVERY else "Test"
            # macOS writes the letter and its dots as two characters, other systems as one.
            form = unicodedata.normalize("NFD" if split == "Train" else "NFC", CLASSES[name])
            save(piece.convert("L"), photos / split / form, number)
        for name, content in other_files(photos).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    print(f"{PIECES * len(CLASSES)} images of {len(CLASSES)} classes in {target}, and more")


def save(image: Image.Image, folder: Path, number: int) -> None:
    """Save an image in one of several ways: without an extension, with 16 bits of which 10 are used, with two pages."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"IMG {number:03}"
    match number % 5:
        case 0:
            image.save(path, "JPEG")
        case 1:
            deep = np.rint(np.asarray(image) * (TEN_BITS / 255)).astype(np.uint16)
            Image.fromarray(deep).save(path.with_suffix(".png"))
        case 2:
            image.save(path.with_suffix(".tif"), save_all=True, append_images=[image])
        case _:
            image.save(path.with_suffix(".JPG"))


def other_files(photos: Path) -> dict[str, bytes]:
    """Return what is beside the images: path -> content."""
    image = next(path for path in sorted(photos.rglob("*.JPG"))).read_bytes()
    tempel = f"My photos/Train/{CLASSES['temple']}"
    return {
        "readme.txt": b"Pieces of two photographs that scikit-learn ships.\n",
        "cover.jpg": image,
        "My photos/Unsorted/IMG 999.jpg": image,
        f"{tempel}/@eaDir/IMG 003.JPG/SYNOPHOTO_THUMB_M.jpg": image,
        f"{tempel}/Thumbs.db": b"clutter",
        f"{tempel}/ticket.pdf": b"%PDF-1.7\n",
        f"{tempel}/walk.mp4": b"\0\0\0\x18ftypmp42",
        f"{tempel}/IMG 900.heic": b"\0\0\0\x18ftypheic",
        f"{tempel}/IMG 901.jpg": b"",
    }


if __name__ == "__main__":
    run(main, arguments=True)
