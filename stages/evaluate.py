"""Stage 5, evaluate: models/ + data/tensors/test -> reports/

    python -m stages.evaluate

In:  the model, which describes itself, and the test tensors. No training parameter is read.
Out: reports/metrics.json, reports/predictions.csv (a row per test image), reports/errors.csv (which errors, how often),
     reports/classes.csv (a row per class), reports/calibration.csv, reports/mistakes.png (the worst errors).
"""

from stages.lib.core.process import run

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from stages.lib.core.errors import UserError
from stages.lib.core.files import replacing, write_table, write_text
from stages.lib.core.parameters import StageParameters, load
from stages.lib.model import compute, distributed, model_file, tensors
from stages.lib.model.inference import outputs_of
from stages.lib.reporting import classification, regression
from stages.lib.reporting.evaluation import Judgement
from stages.lib.reporting.pictures import mistakes_sheet
from stages.lib.splits.description import DataDescription

TEST = Path("data/tensors/test")
REPORTS = Path("reports")


class Parameters(StageParameters):
    """What evaluate reads of params.yaml."""

    calibration_bins: int = Field(default=15, ge=1, le=1000, description="bins of confidence between 0 and 1")
    mistakes_shown: int = Field(default=25, ge=0, le=1000, description="images in reports/mistakes.png, at most")


def main() -> None:
    parameters = load(Parameters)
    network, model = model_file.load(model_file.MODEL)
    if not distributed.launched("evaluate", model.threads):
        device = compute.prepare(model.threads)
        with distributed.joined(device) as group:
            evaluate(parameters, network.to(device), model, device, group)


def evaluate(
    parameters: Parameters,
    network: torch.nn.Module,
    model: model_file.ModelDescription,
    device: torch.device,
    group: distributed.Group,
) -> None:
    """The whole of it, in one process, or in one of a group that has divided the test images among itself."""
    # --- What the model says about every test row, and how good that is ---
    test = split_for(model)
    outputs = outputs_of(network, test, device, group)
    if group.rank:
        list(outputs)  # its part of the work; the first process has what comes of it
        return
    found = judged(outputs, test, parameters)

    # --- For people and pull requests ---
    for name in ("predictions", "errors", "classes", "calibration"):
        decimals = 6 if model.data.classes else None  # shares; of quantities nobody knows what is much
        write_table(REPORTS / f"{name}.csv", getattr(found, name), decimals=decimals)
    worst = [test.rows(mistake.row, mistake.row + 1) for mistake in found.mistakes]
    pixels = to_pixels(tensors.Standardize(model.data)(torch.cat(worst or [test.rows(0, 0)])).numpy(), model.data)
    with replacing(REPORTS / "mistakes.png") as temporary:
        mistakes_sheet(pixels, found.mistakes).save(temporary, "PNG")
    write_text(REPORTS / "metrics.json", json.dumps(found.figures, indent=2, allow_nan=False) + "\n")
    print(found.sentence)


def split_for(model: model_file.ModelDescription) -> tensors.Split:
    """The test split.

    Raises:
        UserError: it is missing or damaged, or not of the data of the model.
    """
    test = tensors.read(TEST, memory=0)  # each row is looked at once
    if test.description != model.data:
        raise UserError(
            f"{TEST}: not of the data that {model_file.MODEL} was trained on; run `dvc repro`, which trains on them"
        )
    return test


def judged(outputs: Iterable[tuple[slice, torch.Tensor]], test: tensors.Split, parameters: Parameters) -> Judgement:
    """How good is what the model says, some rows of (n, outputs) float64 at a time?"""
    if test.description.classes:
        judge: Callable[..., Judgement] = partial(classification.judge, bins=parameters.calibration_bins)
    else:
        judge = regression.judge
    most = parameters.mistakes_shown
    return judge(outputs, test.targets, test.index.numpy(), test.description, files=test.files, most=most)


def to_pixels(standardized: np.ndarray, data: DataDescription) -> np.ndarray:
    """The uint8 pixels behind standardized images (N, C, H, W)."""
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (data.mean, data.std))
    pixels: np.ndarray = np.rint((standardized * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return pixels


if __name__ == "__main__":
    run(main)
