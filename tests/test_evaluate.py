"""The evaluation, on the real model, and its pictures."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageFont

from stages import evaluate
from stages.lib.core.sealed import seal, unseal
from stages.lib.model import model_file, tensors
from stages.lib.reporting.evaluation import Mistake
from stages.lib.reporting.pictures import GAP, LINE, ROOM, SIDE, caption, mistakes_sheet
from stages.lib.splits import shards
from tests.conftest import Project


def test_metrics_are_those_of_the_predictions(reproduced: Project) -> None:
    reports = reproduced.root / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())
    predictions = pd.read_csv(reports / "predictions.csv")
    right = predictions["actual"] == predictions["predicted"]
    assert list(predictions.columns) == ["index", "actual", "predicted", "confidence"]
    assert len(predictions) == metrics["rows"] == 1000
    assert metrics["accuracy"] == right.mean() > 0.9
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert predictions["confidence"].between(0.1, 1).all()
    calibration = pd.read_csv(reports / "calibration.csv")
    assert calibration["rows"].sum() == 1000
    gaps = (calibration["accuracy"] - calibration["confidence"]).abs() * calibration["rows"] / 1000
    assert metrics["calibration_error"] == pytest.approx(gaps.sum(), abs=1e-5)


def test_predictions_are_those_of_the_plain_network_on_the_source_rows(reproduced: Project) -> None:
    network, description = model_file.load(reproduced.root / model_file.MODEL)
    table = pd.read_csv(reproduced.root / "data/raw/files/mnist_5k.csv.gz", header=None).to_numpy()
    predictions = pd.read_csv(reproduced.root / "reports/predictions.csv")
    rows = table[predictions["index"]]
    np.testing.assert_array_equal(rows[:, -1], predictions["actual"])
    mean, std = description.data.mean[0], description.data.std[0]
    pixels = torch.from_numpy(rows[:, :-1]).reshape(-1, 1, 28, 28)
    with torch.inference_mode():
        probabilities = network(((pixels / 255 - mean) / std).float()).softmax(1)
    confidence, predicted = probabilities.max(1)
    np.testing.assert_array_equal(predicted.numpy(), predictions["predicted"])
    np.testing.assert_allclose(confidence.numpy(), predictions["confidence"], atol=2e-6)


def test_a_model_of_other_data_is_refused(project: Project) -> None:
    path = project.root / "models/model.json"
    fields = unseal(path.read_text())
    fields["data"]["dataset"] = "mnist"
    path.write_text(seal(fields))
    before = (project.root / "reports/metrics.json").read_bytes()
    refused = project.stage("evaluate", fails=True)
    assert "error: data/tensors/test: not of the data that models/model.safetensors was trained on" in refused.stderr
    assert (project.root / "reports/metrics.json").read_bytes() == before


def test_pixels_come_back(reproduced: Project) -> None:
    test = shards.read(reproduced.root / "data/normalized/test")
    original = test.images(0, len(test))
    standardized = tensors.Standardize(test.description)(torch.from_numpy(original))
    np.testing.assert_array_equal(evaluate.to_pixels(standardized.numpy(), test.description), original)


def mistake(file: str | None = None, actual: str = "7", predicted: str = "0") -> Mistake:
    return Mistake(row=3, index=35, file=file, actual=actual, predicted=predicted, confidence=0.99)


def test_the_sheet_shows_each_mistake_with_its_captions(tmp_path: Path) -> None:
    images = np.zeros((7, 1, 28, 28), np.uint8)
    mistakes = [mistake(actual=str(number)) for number in range(7)]
    sheet = mistakes_sheet(images, mistakes)
    pixels = np.asarray(sheet)
    assert pixels.shape[2] == 3
    black = (pixels == 0).all(2)
    assert black.sum() > 7 * SIDE * SIDE  # the images, and the letters below
    digests = set()
    for name in ("a.png", "b.png"):
        mistakes_sheet(images, mistakes).save(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("channels", "number"), [(1, 1), (3, 2), (3, 0)])
def test_the_sheet_of_few_colour_or_no_mistakes(channels: int, number: int) -> None:
    images = np.full((number, channels, 8, 8), 128, np.uint8)
    sheet = mistakes_sheet(images, [mistake()] * number)
    assert isinstance(sheet, Image.Image)
    assert (np.asarray(sheet) == 128).all(2).sum() == pytest.approx(
        number * SIDE * SIDE, abs=50
    )  # some grey in letters


FONT = ImageFont.load_default(13)


def test_a_caption_says_what_which_and_how_sure() -> None:
    assert caption(mistake(), FONT) == ["actual 7", "predicted 0 (99.0%)", "row 35"]
    assert caption(mistake("red/35.png"), FONT)[2] == "red/35.png"
    quantities = replace(mistake("a.png"), actual="1.5, 2", predicted="1, 2", confidence=None)
    assert caption(quantities, FONT) == ["actual 1.5, 2", "predicted 1, 2", "a.png"]


@pytest.mark.parametrize(
    ("file", "end"),
    [
        ("a folder/another one/and one more/35.png", "re/35.png"),
        ("l" * 4000 + "35.png", "lll35.png"),
        ("new\nline/car\rriage/tab\t35.png", r"\rriage/tab\t35.png"),
        ("odd \\udcff/" * 9 + "35.png", "/35.png"),
    ],
)
def test_of_a_long_path_the_end_is_drawn(file: str, end: str) -> None:
    *_, line = caption(mistake(file), FONT)
    assert line.startswith("…")
    assert line.endswith(end)
    assert ROOM - 12 < FONT.getlength(line) <= ROOM, "as much as there is room for"


def test_long_captions_stay_below_their_image() -> None:
    """The gap to the next image is white, and so is the one to the next row."""
    long = mistake("folder/" * 20 + "35.png", "station wagon, estate car", "\N{FULL BLOCK}" * 100)
    assert caption(long, FONT)[1].endswith("… (99.0%)")
    odd = mistake("line\n" * 9, "two\nlines", "carriage\r\nreturn")
    sheet = mistakes_sheet(np.zeros((10, 1, 8, 8), np.uint8), [long, odd] * 5)
    white = (np.asarray(sheet) == 255).all(2)
    for column in range(5):
        edge = GAP + column * (SIDE + GAP)
        assert white[:, edge + ROOM + 2 : edge + SIDE + GAP].all(), "beside"
    height = SIDE + 3 * LINE + GAP
    for row in range(2):
        assert white[(row + 1) * height : (row + 1) * height + GAP - 3].all(), "below"
