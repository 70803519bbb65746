"""The evaluation of the real model, and the picture of its mistakes."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stages import evaluate
from stages.lib.core.sealed import seal, unseal
from stages.lib.model import model_file, tensors
from stages.lib.reporting.pictures import CAPTION_WIDTH, GAP, LINE, SIDE, caption, load_font, mistakes_sheet
from stages.lib.reporting.results import Mistake
from stages.lib.splits import shards
from tests.conftest import Project


def test_metrics_follow_from_the_predictions(reproduced: Project) -> None:
    reports = reproduced.root / "reports"
    metrics = json.loads((reports / "metrics.json").read_text())
    predictions = pd.read_csv(reports / "predictions.csv")
    correct = predictions["actual"] == predictions["predicted"]
    assert list(predictions.columns) == ["index", "actual", "predicted", "confidence"]
    assert len(predictions) == metrics["rows"] == 1000
    assert metrics["accuracy"] == correct.mean() > 0.9
    assert metrics["accuracy_low"] < metrics["accuracy"] < metrics["accuracy_high"]
    assert predictions["confidence"].between(0.1, 1).all()
    calibration = pd.read_csv(reports / "calibration.csv")
    assert calibration["rows"].sum() == 1000
    gaps = (calibration["accuracy"] - calibration["confidence"]).abs() * calibration["rows"] / 1000
    assert metrics["calibration_error"] == pytest.approx(gaps.sum(), abs=1e-5)


def test_predictions_are_those_of_the_network_on_the_source_rows(reproduced: Project) -> None:
    network, description = model_file.load(reproduced.root / model_file.MODEL)
    table = pd.read_csv(reproduced.root / "data/raw/dataset/files/mnist_5k.csv.gz", header=None).to_numpy()
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


def test_a_model_trained_on_other_data_is_refused(project: Project) -> None:
    path = project.root / "models/model.json"
    fields = unseal(path.read_text())
    fields["data"]["dataset"] = "mnist"
    path.write_text(seal(fields))
    before = (project.root / "reports/metrics.json").read_bytes()
    refused = project.stage("evaluate", fails=True)
    assert "error: data/tensors/test: not of the data that models/model.safetensors was trained on" in refused.stderr
    assert (project.root / "reports/metrics.json").read_bytes() == before


def test_to_pixels_undoes_standardization(reproduced: Project) -> None:
    test = shards.read(reproduced.root / "data/normalized/test")
    original = test.images(0, len(test))
    standardized = tensors.Standardize(test.description)(torch.from_numpy(original))
    np.testing.assert_array_equal(evaluate.to_pixels(standardized.numpy(), test.description), original)


def mistake(file: str | None = None, actual: str = "7", predicted: str = "0") -> Mistake:
    return Mistake(row=3, index=35, file=file, actual=actual, predicted=predicted, confidence=0.99)


def test_the_sheet_shows_each_mistake_and_is_the_same_each_time(tmp_path: Path) -> None:
    images = np.zeros((7, 1, 28, 28), np.uint8)
    mistakes = [mistake(actual=str(number)) for number in range(7)]
    sheet = mistakes_sheet(images, mistakes)
    pixels = np.asarray(sheet)
    assert pixels.shape[2] == 3
    black = (pixels == 0).all(2)
    assert black.sum() > 7 * SIDE * SIDE  # the images, and the letters of the captions
    digests = set()
    for name in ("a.png", "b.png"):
        mistakes_sheet(images, mistakes).save(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("channels", "number"), [(1, 1), (3, 2), (3, 0)])
def test_the_sheet_of_one_colour_or_no_image(channels: int, number: int) -> None:
    images = np.full((number, channels, 8, 8), 128, np.uint8)
    sheet = mistakes_sheet(images, [mistake()] * number)
    assert isinstance(sheet, Image.Image)
    grey = (np.asarray(sheet) == 128).all(2).sum()
    assert grey == pytest.approx(number * SIDE * SIDE, abs=50), "letters have a little grey, too"


FONT = load_font()


def test_a_caption_has_the_classes_the_confidence_and_the_image() -> None:
    assert caption(mistake(), FONT) == ["actual 7", "predicted 0 (99.0%)", "row 35"]
    assert caption(mistake("red/35.png"), FONT)[2] == "red/35.png"
    quantities = replace(mistake("a.png"), actual="1.5, 2", predicted="1, 2", confidence=None)
    assert caption(quantities, FONT) == ["actual 1.5, 2", "predicted 1, 2", "a.png"]


def test_letters_of_many_scripts_are_drawn_and_others_escaped() -> None:
    """A box would look the same for all that the font lacks."""
    drawn = mistake("e\u0301t\u00e9.png", "\u0401\u043b\u043a\u0430 \u03c8", "\u732b 1")
    lines = ["actual \u0401\u043b\u043a\u0430 \u03c8", "predicted \\u732b 1 (99.0%)", "\u00e9t\u00e9.png"]
    assert caption(drawn, FONT) == lines


@pytest.mark.parametrize(
    ("file", "end"),
    [
        ("a folder/another one/and one more/35.png", "re/35.png"),
        ("l" * 4000 + "35.png", "lll35.png"),
        ("new\nline/car\rriage/tab\t35.png", r"\rriage/tab\t35.png"),
        ("odd \\udcff/" * 9 + "35.png", "/35.png"),
    ],
)
def test_a_caption_shows_the_end_of_a_long_path(file: str, end: str) -> None:
    *_, line = caption(mistake(file), FONT)
    assert line.startswith("…")
    assert line.endswith(end)
    assert CAPTION_WIDTH - 12 < FONT.getlength(line) <= CAPTION_WIDTH, "as much as fits"


def test_long_captions_leave_the_gaps_between_images_white() -> None:
    long = mistake("folder/" * 20 + "35.png", "station wagon, estate car", "\N{FULL BLOCK}" * 100)
    assert caption(long, FONT)[1].endswith("… (99.0%)")
    odd = mistake("line\n" * 9, "two\nlines", "carriage\r\nreturn")
    sheet = mistakes_sheet(np.zeros((10, 1, 8, 8), np.uint8), [long, odd] * 5)
    white = (np.asarray(sheet) == 255).all(2)
    for column in range(5):
        edge = GAP + column * (SIDE + GAP)
        assert white[:, edge + CAPTION_WIDTH + 2 : edge + SIDE + GAP].all(), "beside"
    height = SIDE + 3 * LINE + GAP
    for row in range(2):
        assert white[(row + 1) * height : (row + 1) * height + GAP - 3].all(), "below"
