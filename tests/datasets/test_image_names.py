"""Which files are images, and what is said of those that cannot be read."""

import io
import struct
from pathlib import Path

import pytest
from PIL import Image

from stages.lib.datasets.image_names import is_image_file, unreadable
from stages.lib.preprocessing.pillow_image import open_image


def tiff() -> bytes:
    """Return an image that Pillow reads, as the preview in a raw file."""
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "TIFF")
    return content.getvalue()


TIFF = tiff()


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpeg", "a.tif", "a.webp", "a.HEIC", "a.dng", "a.svg"])
def test_a_file_with_the_name_of_an_image_is_one(tmp_path: Path, name: str) -> None:
    assert is_image_file(tmp_path / name), "without opening it: there is no such file"


@pytest.mark.parametrize("name", ["a.txt", "a.pdf", "a.mp4", "a.mpg", "a.json", "a.npy", "a.png.part"])
def test_other_files_are_none(tmp_path: Path, name: str) -> None:
    Image.new("L", (2, 2)).save(tmp_path / name, "PNG")
    assert not is_image_file(tmp_path / name)


@pytest.mark.parametrize("name", ["a", "0001", "scan.0001"])
def test_a_file_without_extension_is_an_image_by_its_content(tmp_path: Path, name: str) -> None:
    Image.new("L", (2, 2)).save(tmp_path / name, "JPEG")
    assert is_image_file(tmp_path / name)
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic")
    assert is_image_file(tmp_path / name), "which then is refused with advice"
    (tmp_path / name).write_bytes(b"an old text\0\1\2" * 9)
    assert not is_image_file(tmp_path / name)
    (tmp_path / name).write_bytes(b"")
    assert not is_image_file(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.heic",
            b"\0\0\0\x18ftypheic",
            "HEIC, which Pillow does not read; convert the files, for example",
        ),
        ("a.jpg", b"\0\0\0\x18ftypmif1", "HEIC, which Pillow does not read"),
        ("a.jpg", b"\0\0\0\x18ftypmp42", "no image but a video"),
        ("a.dng", b"?" * 99, "a camera's raw file, which Pillow does not read; convert the files"),
        ("a.NEF", TIFF, "a camera's raw file, which Pillow does not read; convert the files"),
        ("a.cr3", b"\0\0\0\x18ftypcrx ", "a camera's raw file"),
        ("a.svg", b"<svg>", "SVG, which Pillow does not read"),
        ("a.heic", b"\0\0\0\x18ftypheim", "HEIC, which Pillow does not read"),
        ("a.fits", b"SIMPLE", "FITS, which Pillow does not read"),
        ("a.png", b"%PDF-1.7", "no image but a PDF document"),
        ("a.png", b"version https://git-lfs.github.com/spec/v1", "a pointer of Git LFS; `git lfs pull` fetches"),
        ("a.png", b"<!doctype html>", "no image but a page of HTML or XML"),
        ("a.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS or PostScript, which is not read"),
        ("a.tif", b"II*\0" + bytes(20), "a TIFF whose kind of pixels Pillow does not read"),
        ("a.png", b"", "an empty file"),
        ("a.png", b"?" * 99, "no image of a format that Pillow reads"),
    ],
)
def test_the_reason_says_what_a_file_is(name: str, content: bytes, message: str) -> None:
    assert message in unreadable(content, name)
    with pytest.raises(ValueError, match=r".") as refused:
        open_image(content, name)
    assert message in str(refused.value)


def test_a_format_that_starts_another_program_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """EPS starts Ghostscript, under any name."""
    started: list[object] = []
    monkeypatch.setattr("subprocess.check_call", lambda *command, **_: started.append(command))
    content = io.BytesIO()
    Image.new("L", (20, 20)).save(content, "EPS")
    with pytest.raises(ValueError, match="EPS or PostScript, which is not read"):
        open_image(content.getvalue(), "a.png")
    assert started == []


def test_pixels_of_unknown_range_are_refused() -> None:
    """A TIFF of 2 x 1 pixels of 16 bits with a sign."""
    tags = {256: 2, 257: 1, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 4, 339: 2}
    directory = b"".join(struct.pack("<HHII", tag, 3, 1, value) for tag, value in tags.items())
    content = b"II*\0" + struct.pack("<IhhH", 12, -5, 1000, len(tags)) + directory + bytes(4)
    with pytest.raises(ValueError, match="signed, 32-bit or real pixels from -5 to 1000, whose black and white are"):
        open_image(content, "a.tif")
