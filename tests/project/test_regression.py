"""Regression, from standardized targets and metrics to the whole pipeline."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.comparison import paired_errors
from stages.lib.model import tasks, tensors
from stages.lib.preprocessing.decoding import decode
from stages.lib.reporting import metrics, regression
from stages.lib.splits.description import DataDescription, Quantity
from tests.conftest import Project
from tests.datasets.test_folder import photo

DATA = DataDescription(
    dataset="made up",
    classes=[],
    shape=(1, 2, 2),
    mean=[0.5],
    std=[0.25],
    quantities=[Quantity(name="age", mean=40.0, std=10.0), Quantity(name="size", mean=1.5e6, std=2e5)],
)


def quantities(rows: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mean, std = torch.tensor([[40.0, 1.5e6], [10.0, 2e5]], dtype=torch.float64)
    samples: torch.Tensor = torch.randn(rows, 2, generator=generator, dtype=torch.float64) * std + mean
    return samples


def test_standardized_targets_convert_back_to_the_original_units() -> None:
    targets = quantities(100)
    standardized = tasks.loss_targets(targets, DATA)
    assert standardized.dtype == torch.float32
    assert standardized.abs().max() < 5
    torch.testing.assert_close(tasks.in_original_units(standardized.double(), DATA), targets, rtol=1e-6, atol=0)
    offset = DATA.model_copy(update={"quantities": [Quantity(name="year", mean=1e9, std=1e-3)]})
    years = torch.tensor([[1e9 + 1e-3], [1e9 - 2e-3]], dtype=torch.float64)
    torch.testing.assert_close(tasks.loss_targets(years, offset), torch.tensor([[1.0], [-2.0]]), rtol=1e-3, atol=0)


def test_the_training_score_is_r2_averaged_over_quantities() -> None:
    raw = torch.randn(1000, 2, dtype=torch.float64)
    targets = ((raw - raw.mean(0)) / raw.std(0, correction=0)).float()
    outputs = targets + 0.3 * torch.randn(1000, 2)
    score_sum = sum(tasks.score_sum(outputs[rows], targets[rows]) for rows in torch.arange(1000).split(64))
    expected = np.mean([metrics.regression(targets[:, i].numpy(), outputs[:, i].numpy())["r2"] for i in (0, 1)])
    assert score_sum / 1000 == pytest.approx(expected, rel=1e-5)
    assert tasks.score(tasks.sums(outputs, targets), targets) == pytest.approx(expected, rel=1e-5)


def test_metrics_match_values_computed_by_hand() -> None:
    scores = metrics.regression(np.array([1.0, 2.0, 3.0, 6.0]), np.array([1.0, 3.0, 3.0, 3.0]))
    assert scores == pytest.approx({"mae": 1.0, "rmse": np.sqrt(10 / 4), "r2": 1 - 10 / 14})
    assert metrics.regression(np.full(20, 0.1), np.full(20, 0.3))["r2"] == 0.0, "rounding is not variance"
    constant = torch.full((20, 1), 0.1, dtype=torch.float64)
    assert tasks.score(tasks.sums(constant + 0.2, constant), constant) == 0.0
    assert metrics.regression(np.ones(3), np.ones(3)) == {"mae": 0.0, "rmse": 0.0, "r2": 0.0}


@pytest.mark.parametrize("scale", [1e-9, 0.7, 1.0, 3.0, 12345.0])
def test_histogram_bins_have_round_edges(scale: float) -> None:
    values = np.random.default_rng(0).normal(size=5000) * scale
    bins = metrics.histogram(values, 30)
    assert sum(count for _, _, count in bins) == 5000
    assert 10 < len(bins) <= 30
    for low, high, count in bins:
        assert abs(((values >= low) & (values < high)).sum() - count) <= 1, "rounding may move one value across an edge"
    assert metrics.histogram(np.zeros(7), 30)[0][2] == 7
    assert metrics.histogram(np.array([1e25]), 30)[0][2] == 1


def test_errors_are_in_original_units_and_the_largest_come_first() -> None:
    targets = quantities(200)
    outputs = tasks.loss_targets(targets, DATA).double()
    outputs[17, 0] += 3.0  # 30 years
    outputs[5, 1] -= 2.0
    files = [f"{row}.png" for row in range(1000, 1200)]
    split = tensors.Split(torch.empty(200, *DATA.shape), targets, torch.arange(200) + 1000, DATA, "", files)
    evaluation = regression.evaluate([(slice(None), outputs)], split, max_mistakes=3)
    assert evaluation.metrics["age"]["mae"] == pytest.approx(30 / 200, rel=1e-4)
    assert evaluation.metrics["size"]["rmse"] == pytest.approx(4e5 / np.sqrt(200), rel=1e-4)
    assert evaluation.metrics["r2"] == pytest.approx(
        np.mean([evaluation.metrics[name]["r2"] for name in ("age", "size")])
    )
    assert len(evaluation.mistakes) == 3
    assert [(mistake.row, mistake.index, mistake.file) for mistake in evaluation.mistakes[:2]] == [
        (17, 1017, "1017.png"),
        (5, 1005, "1005.png"),
    ]
    table = pd.DataFrame(evaluation.predictions)
    assert (table["file"] == table["index"].astype(str) + ".png").all()
    age = table.query("quantity == 'age' and index == 1017")
    assert age["residual"].item() == pytest.approx(30, rel=1e-4)
    for column, name in enumerate(("age", "size")):
        rows = table[table["quantity"] == name]
        np.testing.assert_allclose(rows["actual"], targets[:, column], rtol=1e-8)
        np.testing.assert_allclose(rows["predicted"] - rows["actual"], rows["residual"], rtol=1e-3, atol=1e-2)
    is_age = pd.DataFrame(evaluation.errors)["error"].str.startswith("age ")
    assert pd.DataFrame(evaluation.errors)["images"][is_age].sum() == 200
    assert not any([*evaluation.classes.values(), *evaluation.calibration.values()])


def test_paired_errors_calls_about_5_percent_of_equal_models_different() -> None:
    rng = np.random.default_rng(0)
    significant = [paired_errors(*np.abs(rng.normal(size=(2, 100)))).p_value < 0.05 for _ in range(100)]
    assert 1 <= sum(significant) <= 12
    base = np.abs(rng.normal(size=2000))
    better = paired_errors(base, base * 0.9)
    assert better.difference == pytest.approx(-0.1 * base.mean())
    assert better.low < better.difference < better.high < 0
    assert "significantly better (2,000 test images)" in str(better)
    assert "significantly worse" in str(paired_errors(base, base * 1.1))
    assert "+0, 95 % interval +0 to +0: no significant difference" in str(paired_errors(base, base))


@pytest.fixture
def brightness(project: Project) -> Project:
    """A project configured for regression on a table of images and brightness values."""
    folder = project.root / "lamps"
    folder.mkdir()
    rows = []
    for number in range(120):
        level = 20 + number % 60 * 3
        photo((level, level, level), seed=number, size=(8, 8)).convert("L").save(folder / f"{number}.png")
        pixels, _ = decode((folder / f"{number}.png").read_bytes(), 8)
        rows.append({"path": f"{number}.png", "target": pixels.mean() * 100, "group": f"lamp {number % 60}"})
    pd.DataFrame(rows).to_csv(folder / "lumen.csv", index=False)
    project.set(task="regression", dataset="csv", source="lamps", image_size=8, loss="HuberLoss", dropout=0.0, lr=0.01)
    project.set(epochs=30)
    return project


def test_the_pipeline_trains_and_reports_a_regression_from_a_table(brightness: Project) -> None:
    brightness.repro()
    reports = brightness.root / "reports"
    scores = json.loads((reports / "metrics.json").read_text())
    predictions = pd.read_csv(reports / "predictions.csv")
    residual = predictions["predicted"] - predictions["actual"]
    assert scores["mae"] == pytest.approx(residual.abs().mean(), rel=1e-6)
    assert scores["rmse"] == pytest.approx(np.sqrt((residual**2).mean()), rel=1e-6)
    assert scores["r2"] > 0.9
    table = pd.read_csv(brightness.root / "lamps/lumen.csv")
    np.testing.assert_allclose(predictions["actual"], table["target"][predictions["index"]], atol=1e-6)
    assert predictions["file"].tolist() == table["path"][predictions["index"]].tolist()
    summary = json.loads((reports / "train.json").read_text())
    assert summary["val_r2"] > 0.9
    assert (reports / "classes.csv").read_text().count("\n") == 1

    page = brightness.run("dvc", "plots", "show")
    assert "could not" not in page.stderr + page.stdout
    html = (brightness.root / "dvc_plots/index.html").read_text()
    assert "toNumber(datum['predicted'])" in html

    brightness.commit("lamps")
    predictions["residual"] *= 3
    predictions.to_csv(reports / "predictions.csv", index=False)
    text = brightness.run("python", "-W", "error", "-m", "experiments.report", "HEAD").stdout
    assert "**Mean absolute error of target" in text
    assert "significantly worse (" in text
    assert "### Confusion" not in text


def test_rotated_digits_writes_the_table_of_the_documentation(reproduced: Project, tmp_path: Path) -> None:
    folder = tmp_path / "rotated"
    reproduced.run("python", "-m", "experiments.rotated_digits", str(folder))
    table = pd.read_csv(folder / "angles.csv")
    assert len(table) == 5000
    assert table["target"].between(-45, 45).all()
    assert abs(table["target"].std() - 90 / np.sqrt(12)) < 1
    assert table["split"].value_counts().to_dict() == {"train": 3500, "test": 1000, "val": 500}
    again = reproduced.run("python", "-m", "experiments.rotated_digits", str(folder), fails=True)
    assert "expected the name of a new folder" in again.stderr
