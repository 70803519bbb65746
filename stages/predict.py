"""What the model says of images that no stage has seen.

    make predict IMAGES=path          (python -m stages.predict FILE|FOLDER ... [--csv out.csv] [--top-k 3] [--invert])

In:  image files of any format, size and kind that Pillow reads, or folders of them; models/model.safetensors, or
     another model by --model, with the description beside it.
Out: a table, the most probable classes of each image first (of a regression, its quantities), and with --csv all of it
     in a file. A file that is no image is a line on stderr, the others go on, and the exit code is 1.
Images come to the geometry, the channels and the scale of the training images by the code that brought those there.
"""

from stages.lib.stage import run

# isort: split

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.lib import compute, model_file, tasks, unseen
from stages.lib.description import DataDescription
from stages.lib.files import write_table
from stages.lib.inference import outputs_of
from stages.lib.processes import ALONE

MOST_SHOWN = 40  # rows of the table


def main() -> None:
    options = parsed()
    network, model = model_file.load(options.model)
    device = compute.prepare(model.threads)
    with tempfile.TemporaryDirectory() as folder:
        # --- From files to pixels ---
        files = [file for path in options.images for file in unseen.files_of(path)]
        images = unseen.read(files, model.data, Path(folder) / "pixels")
        images = replace(images, inverted=options.invert)

        # --- What the model says ---
        outputs = torch.cat([some for _, some in outputs_of(network.to(device), images, device, ALONE)])

    # --- For people, and for other programs ---
    inverted = images.other_way_round & options.invert
    said = ranked(outputs, model.data.classes, options.top_k) if model.data.classes else quantities(outputs, model.data)
    columns = {"image": list(map(str, files)), "inverted": ["yes" if its else "no" for its in inverted], **said}
    readable = [row for row in range(len(files)) if row not in images.unreadable]
    columns = {name: [values[row] for row in readable] for name, values in columns.items()}
    if readable:
        show(columns)
    if options.csv:
        write_table(options.csv, columns, decimals=6 if model.data.classes else None)
    tell_of_backgrounds(files, images)
    for row, why in images.unreadable.items():
        print(f"predict: error: {files[row]}: {why}", file=sys.stderr)
    if images.unreadable:
        sys.exit(1)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m stages.predict", description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=named, metavar="FILE|FOLDER", help="images, or folders of images")
    parser.add_argument("--model", type=Path, default=model_file.MODEL, help="weights, their description beside them")
    parser.add_argument("--csv", type=Path, help="a file for all of it")
    parser.add_argument("--top-k", type=positive, default=3, help="classes to tell, the most probable ones (3)")
    parser.add_argument("--invert", action="store_true", help="turn images round that are dark on light (or opposite)")
    return parser.parse_args()


def named(text: str) -> Path:
    """A path, which an empty text is not: `make predict` without IMAGES has that."""
    if not text:
        raise argparse.ArgumentTypeError("found nothing, expected an image or a folder of images: IMAGES=path")
    return Path(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least 1")
    return int(text)


def ranked(logits: Tensor, classes: Sequence[str], most: int) -> dict[str, list[Any]]:
    """The most probable classes of each image and their probabilities, as columns: (N, classes) float64."""
    probabilities = logits.softmax(1).numpy()
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :most]
    columns: dict[str, list[Any]] = {}
    for rank, best in enumerate(order.T):
        ending = f"_{rank + 1}" if rank else ""
        columns[f"predicted{ending}"] = [classes[number] for number in best]
        columns[f"confidence{ending}"] = probabilities[np.arange(len(best)), best].tolist()
    return columns


def quantities(outputs: Tensor, data: DataDescription) -> dict[str, list[Any]]:
    """What a regression predicts, in the quantities' own units, to nine digits: (N, quantities) float64."""
    values = tasks.in_own_units(outputs, data)
    return {
        f"predicted_{quantity.name}": [float(f"{value:.9g}") for value in values[:, at].tolist()]
        for at, quantity in enumerate(data.quantities)
    }


def show(columns: dict[str, list[Any]]) -> None:
    """A table of the first images."""
    classes = [name for name in columns if name.startswith("confidence")]
    head = ["predicted", *["then"] * (len(classes) - 1)] if classes else list(columns)[2:]
    lines = [["image", *head]]
    for row in list(zip(*columns.values(), strict=True))[:MOST_SHOWN]:
        image, inverted, *said = row
        if classes:
            cells = [f"{name} {share:.1%}" for name, share in zip(said[::2], said[1::2], strict=True)]
        else:
            cells = [f"{value:.6g}" for value in said]
        lines.append([f"{image} (inverted)" if inverted == "yes" else image, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if (more := len(columns["image"]) - MOST_SHOWN) > 0:
        print(f"and {more:,} more; --csv FILE writes them all")


def tell_of_backgrounds(files: Sequence[Path], images: unseen.Unseen) -> None:
    """Say which images are dark on light although the training images are not (or opposite), and what was done."""
    found = np.flatnonzero(images.other_way_round)
    if not len(found):
        return
    theirs, trained = "dark on light", "light on dark"
    if float(np.mean(images.description.mean)) > 0.5:
        theirs, trained = trained, theirs
    what = f"{len(found):,} of {len(files):,} images, such as {files[found[0]]}"
    if images.inverted:
        print(f"predict: inverted {what}: {theirs}, and the training images are {trained}", file=sys.stderr)
    else:
        print(
            f"predict: warning: {what}, seem to be {theirs}, and the training images are {trained}: do not trust these "
            "answers; --invert turns them round (make predict IMAGES=... INVERT=yes)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main, alone=False)
