"""Stage 5, evaluate: models/ + data/tensors/test -> reports/

    python -m stages.evaluate

In:  the model, which describes itself, and the test tensors. No training parameter is read.
Out: reports/metrics.json, reports/predictions.csv (a row per test image), reports/errors.csv (kinds of errors and their
     counts), reports/classes.csv (a row per class), reports/calibration.csv, reports/mistakes.png (the worst errors).
"""

from stages.lib.core.process import run

import json

import numpy as np
import torch

from stages.lib.core.files import replacing, write_table, write_text
from stages.lib.core.parameters import load
from stages.lib.model import compute, distributed, model_file
from stages.lib.model.inference import outputs_of
from stages.lib.model.tensors import Standardize
from stages.lib.reporting.evaluation import REPORTS, Parameters, evaluate, read_test_split
from stages.lib.reporting.pictures import mistakes_sheet
from stages.lib.splits.description import DataDescription


def main() -> None:
    parameters = load(Parameters)
    network, model = model_file.load(model_file.MODEL)
    if distributed.launched("evaluate", model.threads):
        return
    device = compute.prepare(model.threads, model.arithmetic)
    with distributed.joined(device) as group:
        # --- Run the model on the test split; rank 0 gathers the outputs ---
        test = read_test_split(model)
        outputs = outputs_of(network.to(device), test, device, group, model.arithmetic)
        if group.rank:
            list(outputs)  # take part in the gather
            return

        # --- Evaluate ---
        bins, max_mistakes = parameters.calibration_bins, parameters.mistakes_shown
        evaluation = evaluate(outputs, test, bins=bins, max_mistakes=max_mistakes)

        # --- Tables ---
        decimals = 6 if model.data.classes else None  # for probabilities; a quantity may be of any magnitude
        write_table(REPORTS / "predictions.csv", evaluation.predictions, decimals=decimals)
        write_table(REPORTS / "errors.csv", evaluation.errors, decimals=decimals)
        write_table(REPORTS / "classes.csv", evaluation.classes, decimals=decimals)
        write_table(REPORTS / "calibration.csv", evaluation.calibration, decimals=decimals)

        # --- Picture of the worst errors ---
        images = [test.rows(mistake.row, mistake.row + 1) for mistake in evaluation.mistakes]
        standardized = Standardize(model.data)(torch.cat(images or [test.rows(0, 0)]))
        with replacing(REPORTS / "mistakes.png") as temporary:
            sheet = mistakes_sheet(to_pixels(standardized.numpy(), model.data), evaluation.mistakes)
            sheet.save(temporary, "PNG")

        # --- Metrics ---
        write_text(REPORTS / "metrics.json", json.dumps(evaluation.metrics, indent=2, allow_nan=False) + "\n")
        print(evaluation.summary)


def to_pixels(standardized: np.ndarray, data: DataDescription) -> np.ndarray:
    """Undo `Standardize`: (N, C, H, W) float32 -> uint8."""
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (data.mean, data.std))
    pixels: np.ndarray = np.rint((standardized * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return pixels


if __name__ == "__main__":
    run(main)
