"""What the model says of images that no stage has seen.

    make predict IMAGES=path          (python -m stages.predict FILE|FOLDER ... [--csv out.csv] [--top-k 3] [--invert])

In:  image files of any format, size and kind that Pillow reads, or folders of them; models/model.safetensors, or
     another model by --model, with the description beside it.
Out: a table, the most probable classes of each image first (of a regression, its quantities), and with --csv all of it
     in a file. A file that is no image is a line on stderr, the others go on, and the exit code is 1.
Images come to the geometry, the channels and the scale of the training images by the code that brought those there.
"""

from stages.lib.stage import reason, run

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
from tqdm import tqdm

from stages.lib import compute, model_file, tasks, unseen
from stages.lib.command_line import Parser
from stages.lib.description import DataDescription
from stages.lib.files import printable, write_table
from stages.lib.inference import outputs_of, rows_at_a_time
from stages.lib.processes import ALONE

MOST_SHOWN = 40  # rows of the table
PIECES = 16  # times the images that the network is given together, to be decoded at a time


def main() -> None:
    options = parsed()
    network, model = model_file.load(options.model)
    device = compute.prepare(model.threads)
    network.to(device)
    files, problems = listed(options.images)
    said: dict[str, list[Any]] = {}
    other_way_round: list[str] = []

    step = PIECES * rows_at_a_time(model.data)
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(files), desc="predicting", unit=" images", disable=None) as bar,
    ):
        for some in (files[first : first + step] for first in range(0, len(files), step)):
            # --- From files to pixels ---
            images = unseen.read(some, model.data, Path(folder) / "pixels", bar)
            images = replace(images, inverted=options.invert)

            # --- What the model says ---
            outputs = torch.cat([few for _, few in outputs_of(network, images, device, ALONE)])
            for name, values in told(some, images, outputs, model.data, options).items():
                said.setdefault(name, []).extend(values)
            other_way_round += [printable(some[row]) for row in np.flatnonzero(images.other_way_round)]
            problems += [f"{printable(some[row])}: {why}" for row, why in images.unreadable.items()]

    # --- For people, and for other programs ---
    if said:
        print(f"{options.model}: {model.architecture.model}, trained on {model.data.dataset}")
        show(said)
        if options.csv:
            write_table(options.csv, said, decimals=6 if model.data.classes else None)
    if other_way_round:
        tell_of_backgrounds(other_way_round, len(said["image"]), model.data, inverted=options.invert)
    if options.invert and unseen.on_light(model.data) is None:
        print(
            "predict: nothing inverted: the training images are neither dark on light nor light on dark",
            file=sys.stderr,
        )
    for problem in problems:
        print(f"predict: error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m stages.predict", description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="+", type=named, metavar="FILE|FOLDER", help="images, or folders of images")
    parser.add_argument("--model", type=weights, default=model_file.MODEL, help="weights, described beside them")
    parser.add_argument("--csv", type=table, help="a file for all of it")
    parser.add_argument("--top-k", type=positive, default=3, help="classes to tell, the most probable ones (3)")
    parser.add_argument("--invert", action="store_true", help="turn images round that are dark on light (or opposite)")
    return parser.parse_args()


def named(text: str) -> Path:
    """A path, which an empty text is not: `make predict` without IMAGES has that."""
    if not text:
        raise argparse.ArgumentTypeError("found nothing, expected an image or a folder of images: IMAGES=path")
    return Path(text)


def weights(text: str) -> Path:
    """A path of weights as train writes them."""
    path = Path(text)
    if path.suffix != model_file.MODEL.suffix or not path.is_file():
        what = "which is not there" if path.suffix == model_file.MODEL.suffix else "no file of weights"
        raise argparse.ArgumentTypeError(f"found {text or 'nothing'}, {what}; expected such as {model_file.MODEL}")
    return path


def table(text: str) -> Path:
    """A path that may be replaced by a table: not an image or a device, by mistake."""
    if Path(text).suffix.lower() != ".csv":
        raise argparse.ArgumentTypeError(f"found {text or 'nothing'}, expected a name that ends in .csv")
    return Path(text)


def positive(text: str) -> int:
    """A whole number of at least 1."""
    if not (text.isascii() and text.isdecimal()) or not int(text):
        raise argparse.ArgumentTypeError(f"found {text}, expected a whole number of at least 1")
    return int(text)


def listed(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """The image files at these paths, and what is wrong with a path."""
    files: list[Path] = []
    problems = []
    for path in paths:
        try:
            files += unseen.files_of(path)
        except (ValueError, OSError) as error:
            problems.append(f"{printable(path)}: {reason(error)}")
    return files, problems


def told(
    files: Sequence[Path], images: unseen.Unseen, outputs: Tensor, data: DataDescription, options: argparse.Namespace
) -> dict[str, list[Any]]:
    """What is told of each image that could be read, by columns; of what the model says (N, outputs) float64."""
    inverted = ["yes" if its else "no" for its in images.other_way_round & options.invert]
    said = ranked(outputs, data.classes, options.top_k) if data.classes else quantities(outputs, data)
    every = {"image": list(map(printable, files)), "inverted": inverted, **said}
    read = [row for row in range(len(files)) if row not in images.unreadable]
    return {name: [cells[row] for row in read] for name, cells in every.items()}


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


def tell_of_backgrounds(found: Sequence[str], number: int, data: DataDescription, *, inverted: bool) -> None:
    """Say which images are dark on light although the training images are not (or opposite), and what was done."""
    theirs, trained = "dark on light", "light on dark"
    if unseen.on_light(data):
        theirs, trained = trained, theirs
    what = f"{len(found):,} of {number:,} images, such as {found[0]}"
    if inverted:
        print(f"predict: inverted {what}: {theirs}, and the training images are {trained}", file=sys.stderr)
    else:
        print(
            f"predict: warning: {what}, seem to be {theirs}, and the training images are {trained}: do not trust these "
            "answers; --invert turns them round (make predict IMAGES=... INVERT=yes)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main, alone=False, arguments=True)
