"""Predict images from outside of the data set.

    make predict IMAGES=path          (python -m commands.predict FILE|FOLDER ... [--csv out.csv] [--top-k 3]
                                                                [--invert auto|each|never] [--place])

In:  image files of any format, size and mode that Pillow reads, or folders of them; models/model.safetensors, or
     another model by --model, with its description beside it.
Out: a table of the most probable classes of each image (of a regression, its quantities); with --csv also a file. For a
     file that is not an image an error on stderr; the others are predicted, and the exit code is 1.
The code of normalize brings images to the geometry, channels and scale of the training images. If all images are
clearly dark on light and the training images are light on dark, or vice versa, they are inverted, and a line on stderr
reports it.
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

MAX_ROWS_SHOWN = 40
BATCHES_DECODED = 16  # batches of the network whose images are decoded at a time


@dataclass
class Predictions:
    """Predictions of some files: one entry for each in every column, also for unreadable ones."""

    columns: dict[str, list[Any]] = field(default_factory=dict)
    unreadable: dict[int, str] = field(default_factory=dict)  # row -> reason
    remarks: list[str] = field(default_factory=list)  # lines about what the pixels do not show
    backgrounds: dict[int, unseen.Background] = field(default_factory=dict)  # row -> background, of the readable ones

    def readable(self) -> dict[str, list[Any]]:
        """Return the columns without unreadable files."""
        return {name: [cells[row] for row in sorted(self.backgrounds)] for name, cells in self.columns.items()}

    def replace(self, rows: Sequence[int], others: "Predictions") -> None:
        """Replace the predictions of some rows by others."""
        for name, cells in self.columns.items():
            for row, cell in zip(rows, others.columns[name], strict=True):
                cells[row] = cell
        for row in rows:
            del self.backgrounds[row]
        self.backgrounds |= {rows[row]: background for row, background in others.backgrounds.items()}
        self.unreadable |= {rows[row]: cause for row, cause in others.unreadable.items()}


def main() -> None:
    options = parse_arguments()
    network, model = model_file.load(options.model)
    if options.place:
        check_placing(options.model, model.data)
    device = compute.prepare(model.threads, model.arithmetic)
    network.to(device)
    files, errors = list_files(options.images)
    predict_files = partial(predict, network, model, device, options)

    # --- Predict; with --invert auto, predict again without inversion unless all images are clearly opposite ---
    grey = model.data.shape[0] == 1  # a negative of a colour photograph resembles no training image
    invert = options.invert == "each" or (options.invert == "auto" and grey)
    predictions = predict_files(files, invert=invert)
    inverted = [row for row, background in predictions.backgrounds.items() if background.inverted]
    all_clear = all(background.opposite and background.clear for background in predictions.backgrounds.values())
    if options.invert == "auto" and inverted and not all_clear:
        predictions.replace(inverted, predict_files([files[row] for row in inverted], invert=False))
    errors += [f"{printable(files[row])}: {cause}" for row, cause in sorted(predictions.unreadable.items())]

    # --- Report ---
    if predictions.backgrounds:
        columns = predictions.readable()
        if options.csv:  # before the table, during which a closed pipe ends the process
            write_table(options.csv, columns, decimals=6 if model.data.classes else None)
        print(f"{options.model}: {model.architecture.model}, trained on {model.data.dataset}")
        show(columns)
    report_backgrounds(predictions, model.data, options.invert)
    for remark in predictions.remarks:
        print(f"predict: {remark}", file=sys.stderr)
    for error in errors:
        print(f"predict: error: {error}", file=sys.stderr)
    if errors:
        sys.exit(1)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(prog="python -m commands.predict", description=__doc__.splitlines()[0])
    parser.add_argument(
        "images", nargs="+", type=image_path, metavar="FILE|FOLDER", help="images, or folders of images"
    )
    parser.add_argument(
        "--model", type=weights_path, default=model_file.MODEL, help="weights, with their description beside them"
    )
    parser.add_argument("--csv", type=csv_path, help="file to write all predictions to")
    parser.add_argument("--top-k", type=positive, default=3, help="number of classes per image (3)")
    parser.add_argument(
        "--invert",
        choices=("auto", "each", "never"),
        default="auto",
        help="invert images that are dark on light where the training images are light on dark, or vice versa: all if "
        "all clearly are (auto, the default), each that appears to be, or none",
    )
    parser.add_argument("--place", action="store_true", help="crop, scale and centre drawings as MNIST's digits are")
    return parser.parse_args()


def image_path(text: str) -> Path:
    """Parse the path of an image or a folder. It is empty in `make predict` without IMAGES."""
    if not text:
        raise argparse.ArgumentTypeError("found nothing, expected an image or a folder of images: IMAGES=path")
    return Path(text)


def weights_path(text: str) -> Path:
    """Parse the path of a file of weights."""
    path = Path(text)
    if path.suffix != model_file.MODEL.suffix or not path.is_file():
        raise argparse.ArgumentTypeError(f"found `{text}`, expected an existing file such as {model_file.MODEL}")
    return path


def csv_path(text: str) -> Path:
    """Parse the path of a CSV to write. Other names are refused: they may be those of images or devices."""
    if Path(text).suffix.lower() != ".csv":
        raise argparse.ArgumentTypeError(f"found `{text}`, expected a name that ends in .csv")
    return Path(text)


def list_files(paths: Sequence[Path]) -> tuple[list[Path], list[str]]:
    """List the image files at some paths. Returns them and the errors."""
    files: list[Path] = []
    errors = []
    for path in paths:
        try:
            files += unseen.files_of(path)
        except (ValueError, OSError, UserError) as error:
            errors.append(f"{printable(path)}: {reason(error)}")
    return files, errors


def check_placing(path: Path, data: DataDescription) -> None:
    """Check that a model's training images are light drawings on a dark background.

    Raises:
        UserError: they are in colour, or not light on dark.
    """
    light = backgrounds.trained_on_light(data)
    if data.shape[0] == 1 and light is False:
        return
    kind = "in colour" if data.shape[0] != 1 else "dark on light" if light else "not drawings on a dark background"
    raise UserError(
        f"--place: needs a model trained on light drawings on a dark background; the training images of {path} "
        f"({data.dataset}) are {kind}"
    )


def predict(
    network: torch.nn.Module,
    model: model_file.ModelDescription,
    device: torch.device,
    options: argparse.Namespace,
    files: Sequence[Path],
    *,
    invert: bool,
) -> Predictions:
    """Predict files, a limited number of which are decoded at a time.

    Args:
        network: on `device`.
        model: its description.
        device: to compute on.
        options: the command line.
        files: of images.
        invert: whether to invert images whose background is opposite to that of the training images.
    """
    data = model.data
    predictions = Predictions()
    step = BATCHES_DECODED * rows_at_a_time(data)
    with tqdm(total=len(files), desc="predicting", unit=" images", disable=None) as bar:
        for first in range(0, len(files), step):
            chunk = files[first : first + step]
            with tempfile.TemporaryDirectory() as folder:
                images = unseen.read(chunk, data, Path(folder) / "pixels", bar, invert=invert, place=options.place)
                outputs = [batch for _, batch in outputs_of(network, images, device, SINGLE, model.arithmetic)]
            for name, cells in columns_of(chunk, images, torch.cat(outputs), data, options.top_k).items():
                predictions.columns.setdefault(name, []).extend(cells)
            predictions.remarks += images.remarks
            predictions.unreadable |= {first + row: cause for row, cause in images.unreadable.items()}
            predictions.backgrounds |= {first + row: background for row, background in images.backgrounds.items()}
    return predictions


def columns_of(
    files: Sequence[Path], images: unseen.Unseen, outputs: Tensor, data: DataDescription, top_k: int
) -> dict[str, list[Any]]:
    """Make the columns of the table from the network's outputs (N, outputs) float64."""
    inverted = [row in images.backgrounds and images.backgrounds[row].inverted for row in range(len(files))]
    columns: dict[str, list[Any]] = {
        "image": list(map(printable, files)),
        "inverted": ["yes" if each else "no" for each in inverted],
    }
    return columns | (top_classes(outputs, data.classes, top_k) if data.classes else quantities(outputs, data))


def top_classes(logits: Tensor, classes: Sequence[str], k: int) -> dict[str, list[Any]]:
    """Make columns of the `k` most probable classes and their probabilities from logits (N, classes) float64."""
    probabilities = tasks.probabilities(logits)[0].numpy()
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :k]
    columns: dict[str, list[Any]] = {}
    for rank, numbers in enumerate(order.T, start=1):
        suffix = f"_{rank}" if rank > 1 else ""
        columns[f"predicted{suffix}"] = [classes[number] for number in numbers]
        columns[f"confidence{suffix}"] = probabilities[np.arange(len(numbers)), numbers].tolist()
    return columns


def quantities(outputs: Tensor, data: DataDescription) -> dict[str, list[Any]]:
    """Make columns of a regression's quantities, in their units, to nine digits, from (N, quantities) float64."""
    values = tasks.in_original_units(outputs, data)
    return {
        f"predicted_{quantity.name}": [float(f"{value:.9g}") for value in values[:, column].tolist()]
        for column, quantity in enumerate(data.quantities)
    }


def show(columns: dict[str, list[Any]]) -> None:
    """Print a table of the first images."""
    ranks = sum(name.startswith("confidence") for name in columns)
    lines = [["image", *(["predicted", *["then"] * (ranks - 1)] if ranks else list(columns)[2:])]]
    for image, inverted, *values in list(zip(*columns.values(), strict=True))[:MAX_ROWS_SHOWN]:
        if ranks:
            cells = [f"{name} {share:.1%}" for name, share in zip(values[::2], values[1::2], strict=True)]
        else:
            cells = [f"{value:.6g}" for value in values]
        lines.append([f"{image} (inverted)" if inverted == "yes" else image, *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if (more := len(columns["image"]) - MAX_ROWS_SHOWN) > 0:
        print(f"and {more:,} more; --csv FILE writes them all")


def report_backgrounds(predictions: Predictions, data: DataDescription, mode: str) -> None:
    """Report on stderr the images whose background is opposite to that of the training images, unless mode is never."""
    if mode == "never":
        return
    light = backgrounds.trained_on_light(data)
    if light is None:
        if mode == "each":
            print(
                "predict: nothing inverted: the training images are neither dark on light nor light on dark",
                file=sys.stderr,
            )
        return
    opposite = [row for row, background in sorted(predictions.backgrounds.items()) if background.opposite]
    if not opposite:
        return
    kind, trained = ("light on dark", "dark on light") if light else ("dark on light", "light on dark")
    first, appear, them = predictions.columns["image"][opposite[0]], " appears", "it"
    if len(predictions.backgrounds) > 1:
        first = f"{len(opposite):,} of {len(predictions.backgrounds):,} images, such as {first}"
        appear, them = ", appear", "them"
    if predictions.backgrounds[opposite[0]].inverted:
        undo = "; to leave all as they are: --invert never (make: INVERT=never)" if mode == "auto" else ""
        print(f"predict: inverted {first}: {kind}, and the training images are {trained}{undo}", file=sys.stderr)
    else:
        print(
            f"predict: warning: {first}{appear} to be {kind}, and the training images are {trained}: the predictions "
            f"are unreliable; to invert {them}: --invert each (make: INVERT=each)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    run(main, lock=False, arguments=True)
