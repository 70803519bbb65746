"""Writing decoded pixels."""

import io
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.lib.preprocessing import decoding, jpeg
from stages.lib.preprocessing.pillow_image import open_image
from stages.lib.preprocessing.processes import all_processors

SIZE = 64  # pixels: 12,288 bytes an image


def content_of(name: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), 200, np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_a_write_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    """As on a full disk: the system writes what fits and reports fewer bytes. The rest of the image would be black."""
    image = 3 * SIZE * SIZE
    images, _ = decoding.decode_all(lambda _: content_of, ["a", "b"], SIZE, tmp_path / "pixels", map)
    assert (images[:] == 200).all()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (image * 3 // 2, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            decoding.decode_all(lambda _: content_of, ["a", "b"], SIZE, tmp_path / "others", map)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


def jpegs() -> dict[str, bytes]:
    """JPEG files of every kind, turned ones, and damaged ones."""
    random = np.random.default_rng(0)
    files: dict[str, bytes] = {}
    for mode in ("RGB", "L", "CMYK"):
        for progressive in (False, True):
            for subsampling in (0, 1, 2):  # 4:4:4, 4:2:2, 4:2:0
                for width, height in ((64, 48), (33, 17), (100, 203)):
                    shape = (height // 8, width // 8, len(Image.new(mode, (1, 1)).getbands()))
                    small = Image.fromarray(random.integers(0, 256, shape, np.uint8).squeeze(), mode)
                    exif = Image.Exif()
                    exif[0x0112] = len(files) % 9  # 0 is none of the eight orientations
                    image, content = small.resize((width, height), Image.Resampling.BICUBIC), io.BytesIO()
                    image.save(content, "JPEG", progressive=progressive, subsampling=subsampling, quality=90, exif=exif)
                    files[f"{len(files)}.jpg"] = content.getvalue()
    whole = files["0.jpg"]
    for number in range(12):
        damaged = bytearray(whole)
        damaged[int(random.integers(300, len(whole)))] ^= 0xFF
        files[f"damaged {number}.jpg"] = bytes(damaged)
    return files | {"short.jpg": whole[:-40], "empty.jpg": b""}


def test_many_jpeg_files_have_the_pixels_that_pillow_reads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Worker processes use another decoder, on condition that nobody can tell: not by a remark on stderr either."""
    files = jpegs()
    assert len(files) >= decoding.FEW
    assert jpeg._decoder() is not None
    with all_processors() as run:
        images, unreadable = decoding.decode_all(
            lambda _: files.__getitem__, list(files), SIZE, tmp_path / "pixels", run
        )
    assert capfd.readouterr().err == ""
    assert {"short.jpg", "empty.jpg"} <= {list(files)[row] for row in unreadable}
    pixels = images[: len(files)]
    for row, (name, content) in enumerate(files.items()):
        if row in unreadable:
            with pytest.raises(ValueError, match=".") as refusal:
                open_image(content, name)
            assert unreadable[row] == str(refusal.value)
        else:
            np.testing.assert_array_equal(pixels[row], decoding.decode(content, SIZE)[0], err_msg=name)
