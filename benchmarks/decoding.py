"""Decoding image files: images a second of normalize's reader, beside torchvision's decode, resize and crop.

    python -m benchmarks.decoding

2,000 JPEGs of 500 x 375 pixels, as ImageNet's are on average, made here of smooth noise, brought to 224 x 224. The peer
decodes in one process and one thread (`decode_image`, then `resize` with antialiasing and `center_crop`); times the
number of processors that is what the machine could do. Ours reads, checks each file's sha256, decodes with as many
processes as there are processors, and writes the pixels to a file. The two take turns.
"""

import hashlib
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import refuse_a_loaded_machine, take_turns
from stages.lib.datasets.raw import Raw
from stages.lib.preprocessing.decoding import decode_all

NUMBER, SIZE, ROUNDS = 2000, 224, 5


def main() -> None:
    refuse_a_loaded_machine()
    with tempfile.TemporaryDirectory() as folder:
        raw = photographs(Path(folder) / "photographs")
        found = take_turns({"ours": lambda: ours(raw, Path(folder) / "pixels"), "peer": lambda: peer(raw)}, ROUNDS)
    rates = {name: NUMBER / each.median for name, each in found.items()}
    processors = os.cpu_count() or 1
    print(
        f"ours {rates['ours']:,.0f} images/s ± {found['ours'].spread:.0%}; torchvision in one thread "
        f"{rates['peer']:,.0f} ± {found['peer'].spread:.0%}, times {processors} processors "
        f"{rates['peer'] * processors:,.0f}: {rates['ours'] / rates['peer'] / processors:.2f} of that (goal 0.90)"
    )


def photographs(folder: Path) -> Raw:
    """The files, and what download knows of them."""
    folder.mkdir()
    random = np.random.default_rng(0)
    sha256 = {}
    for number in range(NUMBER):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        coarse.save(folder / f"{number}.jpg", quality=90)
        sha256[f"{number}.jpg"] = hashlib.sha256((folder / f"{number}.jpg").read_bytes()).hexdigest()
    return Raw("folder", folder, sha256)


def ours(raw: Raw, path: Path) -> float:
    """Seconds of normalize's reader."""
    started = time.perf_counter()
    _, unreadable = decode_all(raw.content, list(raw.sha256), SIZE, path)
    assert not unreadable
    return time.perf_counter() - started


def peer(raw: Raw) -> float:
    """Seconds of torchvision."""
    from torchvision.io import decode_image
    from torchvision.transforms.v2.functional import center_crop, resize

    torch.set_num_threads(1)
    started = time.perf_counter()
    for name in raw.sha256:
        center_crop(resize(decode_image(str(raw.root / name)), [SIZE], antialias=True), [SIZE])
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
