"""Compare normalize's decoding of image files with torchvision's, in images per second.

    python -m benchmarks.decoding

The images are 2,000 JPEGs of smooth noise, 500 x 375 pixels like the average ImageNet image, resized to 224 x 224.
torchvision decodes in one process and one thread (`decode_image`, `resize` with antialiasing, `center_crop`); its rate
times the number of processors is what the machine could do. Our reader also verifies each file's sha256, decodes with
one process per processor, and writes the pixels to a file. The two run alternately.
"""

from stages.lib.core.process import run

import os
import shutil
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.images import write_photographs
from benchmarks.timing import time_alternately, wait_until_idle
from stages.lib.datasets.raw import Raw
from stages.lib.preprocessing.decoding import decode_all
from stages.lib.preprocessing.processes import all_processors

NUMBER, SIZE, ROUNDS = 2000, 224, 5


def main() -> None:
    wait_until_idle()
    with tempfile.TemporaryDirectory() as folder:
        photographs = Path(folder) / "photographs"
        raw = Raw("folder", photographs, write_photographs(photographs, NUMBER))
        seconds = time_alternately(
            {"ours": lambda: ours(raw, Path(folder) / "pixels"), "torchvision": lambda: torchvision(raw)}, ROUNDS
        )
    rates = {name: NUMBER / timing.median for name, timing in seconds.items()}
    processors = os.cpu_count() or 1
    print(
        f"ours {rates['ours']:,.0f} images/s ± {seconds['ours'].spread:.0%}; torchvision in one thread "
        f"{rates['torchvision']:,.0f} ± {seconds['torchvision'].spread:.0%}, times {processors} processors "
        f"{rates['torchvision'] * processors:,.0f}: {rates['ours'] / rates['torchvision'] / processors:.2f} of that "
        "(goal 0.90)"
    )


def ours(raw: Raw, path: Path) -> float:
    """Return the seconds of normalize's reader."""
    shutil.rmtree(path, ignore_errors=True)
    started = time.perf_counter()
    with all_processors() as processes:
        _, unreadable = decode_all(raw.reader, list(raw.checksums), SIZE, path, processes)
    assert not unreadable
    return time.perf_counter() - started


def torchvision(raw: Raw) -> float:
    """Return the seconds of torchvision."""
    from torchvision.io import decode_image
    from torchvision.transforms.v2.functional import center_crop, resize

    torch.set_num_threads(1)
    started = time.perf_counter()
    for name in raw.checksums:
        center_crop(resize(decode_image(str(raw.root / name)), [SIZE], antialias=True), [SIZE])
    return time.perf_counter() - started


if __name__ == "__main__":
    run(main, lock=False)  # which keeps freed memory, as in every stage; torchvision gains 2 % from it
