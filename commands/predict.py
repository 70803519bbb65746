"""What the model says of images that no stage has seen.

    make predict IMAGES=path          (python -m commands.predict FILE|FOLDER ... [--csv out.csv] [--top-k 3]
                                                                [--invert auto|each|never] [--place])

In:  image files of any format, size and kind that Pillow reads, or folders of them; models/model.safetensors, or
     another model by --model, with the description beside it.
Out: a table, the most probable classes of each image first (of a regression, its quantities), and with --csv all of it
     in a file. A file that is no image is a line on stderr, the others go on, and the exit code is 1.
Images come to the geometry, the channels and the scale of the training images by the code that brought those there.
Where all of them clearly are dark on light and the training images are light on dark (or opposite), they are inverted
first, and a line on stderr says so.
"""

from stages.lib.core.process import run

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from commands.lib import backgrounds, unseen
from commands.lib.command_line import Parser, positive
from stages.lib.core.errors import UserError, reason
from stages.lib.core.files import printable, write_table
from stages.lib.model import compute, model_file, tasks
from stages.lib.model.distributed import SINGLE
from stages.lib.model.inference import outputs_of, rows_at_a_time
from stages.lib.splits.description import DataDescription

MOST_SHOWN = 40  # rows of the table
PIECES = 16  # times the images that the network is given together, to be decoded at a time


@dataclass
class Predictions:
    """What the model says of some files: one entry for each in every column, also for those that cannot be read."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)  # row -> why
    backgrounds: dict[int, unseen.Background] = field(default_factory=dict)  # row -> background, of the others

    def readable(self) -> dict[str, list[Any]]:
        """The columns without the files that cannot be read."""
        return {name: [cells[row] for row in sorted(self.backgrounds)] for name, cells in self.columns.items()}

    def replace(self, rows: Sequence[int], others: "Predictions") -> None:
        """Put other predictions in place of those of some rows."""
        for name, cells in self.columns.items():
            for row, cell in zip(rows, others.columns[name], strict=True):
                cells[row] = cell
        for row in rows:
            del self.backgrounds[row]
        self.backgrounds |= {rows[row]: background for row, background in others.backgrounds.items()}
        self.unreadable |= {rows[row]: why for row, why in others.unreadable.items()}


def main() -> None:
    options = parsed()
    network, model = model_file.load(options.model)
    if options.place:
        check_placing(options.model, model.data)
    device = compute.prepare(model.threads)
    network.to(device)
    files, problems = listed(options.images)
    predict = partial(predictions, network, model.data, device, options)

    # --- From files to predictions; with `auto`, inverted until an image shows that not all of them should be ---
    grey = model.data.shape[0] == 1  # a negative of a photograph in colour is nothing that a model was trained on
    found = predict(files, invert=options.invert == "each" or (options.invert == "auto" and grey))
    inverted = [row for row, background in found.backgrounds.items() if background.inverted]
    all_clear = all(background.opposite and background.clear for background in found.backgrounds.values())
    if options.invert == "auto" and inverted and not all_clear:
        found.replace(inverted, predict([files[row] for row in inverted], invert=False))
    problems += [f"{printable(files[row])}: {why}" for row, why in sorted(found.unreadable.items())]

    # --- For people, and for other programs ---
    if found.backgrounds:
        columns = found.readable()
        if options.csv:  # first: a closed pipe ends the other
            write_table(options.csv, columns, decimals=6 if model.data.classes else None)
        print(f"{options.model}: {model.architecture.model}, trained on {model.data.dataset}")
        show(columns)
    report_backgrounds(found, model.data, options.invert)
    for problem in problems:
        print(f"predict: error: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = Parser(prog="python -m commands.predict", description=__doc__.splitlines()[0])
    parser.add_argument(
        "images", nargs="+", type=image_path, metavar="FILE|FOLDER", help="images, or folders of images"
    )
    parser.add_argument("--model", type=weights, default=model_file.MODEL, help="weights, described beside them")
    parser.add_argument("--csv", type=table, help="a file for all of it")
    parser.add_argument("--top-k", type=positive, default=3, help="classes to tell, the most probable ones (3)")
    parser.add_argument(
        "--invert",
        choices=("auto", "each", "never"),
        default="auto",
        help="dark on light where the training images are light on dark, or opposite: invert all images if all clearly "
        "are (auto, the default), each that seems to be, or none",
    )
    parser.add_argument("--place", action="store_true", help="cut out, scale and centre drawings as MNIST's digits are")
    return parser.parse_args()


def image_path(text: str) -> Path:
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


def check_placing(path: Path, data: DataDescription) -> None:
    """Refuse to place drawings for a model whose training images are none.

    Raises:
        UserError: they are in colour, or not light on dark.
    """
    light = backgrounds.on_light(data)
    if data.shape[0] == 1 and light is False:
        return
    what = "in colour" if data.shape[0] != 1 else "dark on light" if light else "not drawings on a dark background"
    raise UserError(
        f"--place: places light drawings on a dark background, and the training images of {path} ({data.dataset}) are "
        f"{what}; leave it out"
    )


def predictions(
    network: torch.nn.Module,
    data: DataDescription,
    device: torch.device,
    options: argparse.Namespace,
    files: Sequence[Path],
    *,
    invert: bool,
) -> Predictions:
    """What a network says of some files. No more of their pixels than of PIECES network inputs are kept at a time.

    Args:
        network: on `device`.
        data: what it was trained on.
        device: where it computes.
        options: the command line.
        files: of images.
        invert: whether to invert images whose background is opposite to that of the training images.
    """
    found = Predictions()
    step = PIECES * rows_at_a_time(data)
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=len(files), desc="predicting", unit=" images", disable=None) as bar,
    ):
        for first in range(0, len(files), step):
            some = files[first : first + step]
            images = unseen.read(some, data, Path(folder) / "pixels", bar, invert=invert, place=options.place)
            outputs = torch.cat([few for _, few in outputs_of(network, images, device, SINGLE)])
            for name, cells in columns_of(some, images, outputs, data, options.top_k).items():
                found.columns.setdefault(name, []).extend(cells)
            found.unreadable |= {first + row: why for row, why in images.unreadable.items()}
            found.backgrounds |= {first + row: background for row, background in images.backgrounds.items()}
    return found


def columns_of(
    files: Sequence[Path], images: unseen.Unseen, outputs: Tensor, data: DataDescription, top_k: int
) -> dict[str, list[Any]]:
    """The columns of the table for some files, from the network's outputs (N, outputs) float64."""
    inverted = [row in images.backgrounds and images.backgrounds[row].inverted for row in range(len(files))]
    return {
        "image": list(map(printable, files)),
        "inverted": ["yes" if was else "no" for was in inverted],
        **(ranked(outputs, data.classes, top_k) if data.classes else quantities(outputs, data)),
    }


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
    values = tasks.in_original_units(outputs, data)
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


def report_backgrounds(found: Predictions, data: DataDescription, mode: str) -> None:
    """Say on stderr which images are dark on light although the training images are not (or opposite), and what was
    done about it; nothing where nothing should be (`--invert never`).
    """
    if mode == "never":
        return
    light = backgrounds.on_light(data)
    if light is None:
        if mode == "each":
            print(
                "predict: nothing inverted: the training images are neither dark on light nor light on dark",
                file=sys.stderr,
            )
        return
    opposite = [row for row, background in sorted(found.backgrounds.items()) if background.opposite]
    if not opposite:
        return
    theirs, trained = ("light on dark", "dark on light") if light else ("dark on light", "light on dark")
    what, seem, these = found.columns["image"][opposite[0]], " seems", "it"
    if len(found.backgrounds) > 1:
        what, seem, these = f"{len(opposite):,} of {len(found.backgrounds):,} images, such as {what}", ", seem", "these"
    why = f"{theirs}, and the training images are {trained}"
    if found.backgrounds[opposite[0]].inverted:
        undo = "; to leave all as they are: --invert never (make: INVERT=never)" if mode == "auto" else ""
        print(f"predict: inverted {what}: {why}{undo}", file=sys.stderr)
    else:
        print(
            f"predict: warning: {what}{seem} to be {why}: do not trust these predictions; to invert {these}: "
            "--invert each (make: INVERT=each)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main, lock=False, arguments=True)
