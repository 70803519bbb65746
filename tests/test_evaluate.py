"""The evaluation, on the real model, and its pictures."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from stages import evaluate
from stages.lib import model_file, shards, tensors
from stages.lib.pictures import mistakes_sheet
from stages.lib.sealed import seal, unseal
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


def test_the_sheet_shows_each_mistake_with_its_captions(tmp_path: Path) -> None:
    images = np.zeros((7, 1, 28, 28), np.uint8)
    captions = [[f"actual {number}", "said 0 (99.0%)"] for number in range(7)]
    sheet = mistakes_sheet(images, captions)
    pixels = np.asarray(sheet)
    assert pixels.shape[2] == 3
    black = (pixels == 0).all(2)
    assert black.sum() > 7 * 140 * 140  # the images, and the letters below
    digests = set()
    for name in ("a.png", "b.png"):
        mistakes_sheet(images, captions).save(tmp_path / name)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize(("channels", "number"), [(1, 1), (3, 2), (3, 0)])
def test_the_sheet_of_few_colour_or_no_mistakes(channels: int, number: int) -> None:
    images = np.full((number, channels, 8, 8), 128, np.uint8)
    sheet = mistakes_sheet(images, [["actual a", "said b"]] * number)
    assert isinstance(sheet, Image.Image)
    assert (np.asarray(sheet) == 128).all(2).sum() == pytest.approx(number * 140 * 140, abs=50)  # some grey in letters
