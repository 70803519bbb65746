"""Writing decoded pixels."""

import io
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.lib.preprocessing import decoding

SIZE = 64  # pixels: 12,288 bytes an image


def content_of(name: str) -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.full((SIZE, SIZE), 200, np.uint8)).save(content, "PNG")
    return content.getvalue()


def test_a_write_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    """As on a full disk: the system writes what fits and reports fewer bytes. The rest of the image would be black."""
    path, image = tmp_path / "pixels", 3 * SIZE * SIZE
    images, _ = decoding.decode_all(content_of, ["a", "b"], SIZE, path)
    assert (images[:] == 200).all()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (image * 3 // 2, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            decoding._prepare_one(content_of, decoding._fit, SIZE, path, 65_535, 1, "b")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
