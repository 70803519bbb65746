"""Stage 5, evaluate: models/ + data/tensors/test -> reports/

    python -m stages.evaluate

In:  the model, which describes itself, and the test tensors. No training parameter is read.
Out: reports/metrics.json, reports/predictions.csv (a row per test image), reports/classes.csv (a row per class),
     reports/calibration.csv, reports/mistakes.png (the most confident mistakes).
"""

from stages.lib.stage import UserError, run

# isort: split

import json
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import Field
from torch.nn.functional import cross_entropy

from stages.lib import compute, metrics, model_file, tensors
from stages.lib.description import DataDescription
from stages.lib.files import replacing, write_text
from stages.lib.inference import logits_of
from stages.lib.parameters import StageParameters, load
from stages.lib.pictures import mistakes_sheet

MODELS = Path("models")
TEST = Path("data/tensors/test.safetensors")
REPORTS = Path("reports")
MANY_CLASSES = 20  # from which on the accuracy of the five best guesses is told as well


class Parameters(StageParameters):
    """What evaluate reads of params.yaml."""

    calibration_bins: int = Field(ge=1, le=1000, description="bins of confidence between 0 and 1")
    mistakes_shown: int = Field(ge=0, le=1000, description="images in reports/mistakes.png, at most")


def main() -> None:
    parameters = load(Parameters)
    network, model = model_file.load(MODELS)
    device = compute.prepare(model.threads)
    test = tensors.read(TEST)
    if test.description != model.data:
        raise UserError(f"{TEST}: not of the data that {MODELS} was trained on; run `dvc repro`, which trains on them")

    # --- What the model says about every test row ---
    logits = logits_of(network.to(device), test, device)  # (N, classes) float64
    loss = float(cross_entropy(logits, test.targets))
    probabilities = logits.softmax(1).numpy()
    actual, predicted = test.targets.numpy(), probabilities.argmax(1)
    confidence, correct = probabilities.max(1), actual == predicted

    # --- How good that is ---
    calibration = metrics.calibration(confidence, correct, parameters.calibration_bins)
    low, high = metrics.accuracy_interval(int(correct.sum()), len(correct))
    figures = {
        "accuracy": float(correct.mean()),
        "accuracy_low": low,
        "accuracy_high": high,
        "loss": loss,
        "macro_f1": metrics.macro_f1(actual, predicted, len(model.data.classes)),
        "calibration_error": metrics.calibration_error(calibration),
        "rows": len(correct),
    }
    if len(model.data.classes) >= MANY_CLASSES:
        figures["top_5_accuracy"] = metrics.top_accuracy(probabilities, actual, 5)

    # --- For people and pull requests ---
    names = np.array(model.data.classes)
    predictions = pd.DataFrame(
        {"index": test.index.numpy(), "actual": names[actual], "predicted": names[predicted], "confidence": confidence}
    )
    write_table(REPORTS / "predictions.csv", predictions)
    write_table(REPORTS / "classes.csv", pd.DataFrame(metrics.by_class(actual, predicted, model.data.classes)))
    write_table(REPORTS / "calibration.csv", pd.DataFrame(calibration))
    mistakes = np.flatnonzero(~correct)
    mistakes = mistakes[np.argsort(-confidence[mistakes], kind="stable")][: parameters.mistakes_shown]
    captions = [
        [
            f"actual {names[actual[row]]}",
            f"said {names[predicted[row]]} ({confidence[row]:.1%})",
            f"row {test.index[row]}",
        ]
        for row in mistakes
    ]
    with replacing(REPORTS / "mistakes.png") as temporary:
        mistakes_sheet(to_pixels(test.images[mistakes].float().numpy(), model.data), captions).save(temporary, "PNG")
    write_text(REPORTS / "metrics.json", json.dumps(figures, indent=2, allow_nan=False) + "\n")
    print(f"accuracy {figures['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) on {len(correct):,} test images")


def write_table(path: Path, table: pd.DataFrame) -> None:
    """A CSV with numbers of six decimals, the same bytes on every platform."""
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False, float_format="%.6f", lineterminator="\n")


def to_pixels(standardized: np.ndarray, data: DataDescription) -> np.ndarray:
    """The uint8 pixels behind standardized images (N, C, H, W)."""
    mean, std = (np.array(values).reshape(-1, 1, 1) for values in (data.mean, data.std))
    pixels: np.ndarray = np.rint((standardized * std + mean) * 255).clip(0, 255).astype(np.uint8)
    return pixels


if __name__ == "__main__":
    run(main)
