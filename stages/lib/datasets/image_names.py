"""Which files are images, and what a file is that cannot be read: one rule for normalize and predict.

A file is an image by the extension of its name; without an extension, by its first bytes. Images of formats that Pillow
does not read (HEIC, raw files of cameras) count as images that cannot be read: they are never left out silently.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePath
from typing import IO

# Pillow's readers that need no other program (EPS starts Ghostscript) and that decode what they recognize.
FORMATS = "AVIF BMP DCX DDS DIB GIF ICNS ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI SUN TGA TIFF WEBP XBM XPM"
CAMERA = "a camera's raw file"  # often a TIFF whose first page is a preview
CAMERAS = [".arw", ".cr2", ".cr3", ".crw", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw", ".x3f"]
OTHER_FORMATS = {
    **dict.fromkeys((".heic", ".heics", ".heif", ".hif"), "HEIC"),
    **dict.fromkeys(CAMERAS, CAMERA),
    **{".jxl": "JPEG XL", ".dcm": "DICOM", ".exr": "OpenEXR", ".svg": "SVG", ".eps": "EPS"},
    **dict.fromkeys((".fit", ".fits"), "FITS"),
}
HEIC = tuple(b"ftyp" + brand for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevm", b"mif1", b"msf1"))
TIFF = "a TIFF whose kind of pixels Pillow does not read; save it with 8 or 16 bits, grey or RGB"
# What is often in files with the name of an image: first bytes, and what it is. The name says more than the last ones.
CONTENTS = {
    b"version https://git-lfs": "no image but a pointer of Git LFS; `git lfs pull` fetches the images",
    b"%PDF": "no image but a PDF document",
    b"%!PS": "EPS or PostScript, which is not read; save it as PNG",
    b"PK\3\4": "no image but a zip archive",
}
OTHER_CONTENTS = {b"<": "no image but a page of HTML or XML", b"II*\0": TIFF, b"MM\0*": TIFF}


@cache
def formats() -> tuple[str, ...]:
    """Return the names of the formats that are read, those that this build of Pillow has."""
    from PIL import Image  # which download does without

    Image.init()
    return tuple(name for name in FORMATS.split() if name in Image.OPEN)


@cache
def extensions() -> frozenset[str]:
    """Return the extensions of all images, in lower case."""
    from PIL import Image

    read = {extension for extension, name in Image.registered_extensions().items() if name in formats()}
    return frozenset(read | OTHER_FORMATS.keys())


def is_image(name: str | PurePath, opened: Callable[[], IO[bytes]]) -> bool:
    """Return whether a file is an image, or has the name of one. Only a file without an extension is opened."""
    extension = PurePath(name).suffix.lower()
    if extension and not extension[1:].isdecimal():
        return extension in extensions()
    from PIL import Image

    with opened() as file:
        if file.read(12)[4:].startswith(HEIC):
            return True
        file.seek(0)
        try:
            # The reader of TGA recognizes nearly everything.
            Image.open(file, formats=[name for name in formats() if name != "TGA"]).close()
        except Exception:  # each of Pillow's readers raises its own
            return False
    return True


def is_image_file(path: Path) -> bool:
    """Return the same for a file on a disk."""
    return is_image(path, lambda: path.open("rb"))


def kind_of(name: str) -> str:
    """Return a file's extension in lower case, or a word for none, to count files that are no images."""
    return PurePath(name).suffix.lower() or "without extension"


def refuse_raw(name: str) -> None:
    """Refuse a raw file of a camera, of which Pillow would read a preview.

    Raises:
        ValueError: it is one.
    """
    if PurePath(name).suffix.lower() in CAMERAS:
        raise ValueError(unreadable(b"?", name))


def unreadable(content: bytes, name: str) -> str:
    """Return what a file is that none of Pillow's readers recognizes, and what to do."""
    extension = PurePath(name).suffix.lower()
    for first, what in CONTENTS.items():
        if content.startswith(first):
            return what
    if content[4:].startswith(HEIC):
        extension = ".heic"
    if extension in OTHER_FORMATS:
        what, convert = OTHER_FORMATS[extension], f"magick mogrify -format png *{extension}"
        return f"{what}, which Pillow does not read; convert the files, for example by `{convert}`"
    for first, what in OTHER_CONTENTS.items():
        if content.startswith(first):
            return what
    if content[4:].startswith(b"ftyp"):
        return "no image but a video"
    return "no image of a format that Pillow reads" if content else "an empty file"
