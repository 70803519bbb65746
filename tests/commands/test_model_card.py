"""The model card: the numbers of the reports, in valid Markdown and YAML, for every kind of model and name."""

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from ruamel.yaml import YAML

from commands.card import CARD
from commands.lib import model_card
from stages.lib.model import model_file, tensors
from stages.lib.reporting import classification, regression
from stages.lib.reporting.results import Evaluation
from stages.lib.splits.description import DataDescription, Quantity
from tests.conftest import Project

# Of https://doi.org/10.1145/3287560.3287596, figure 1, in their order.
SECTIONS = [
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
]
YAML_READERS = [yaml.safe_load, YAML(typ="safe").load]  # YAML 1.1 and 1.2


def table(card: str, heading: str) -> list[list[str]]:
    """Parse the first table below a heading; its head is the first row."""
    lines = card.split(f"# {heading}\n", 1)[1].lstrip().split("\n\n")
    rows = next(part for part in lines if part.startswith("|")).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in [rows[0], *rows[2:]]]


def metadata(card: str, read: Callable[[str], Any] = yaml.safe_load) -> dict[str, Any]:
    """Parse the front matter."""
    start, front_matter, body = card.split("---\n", 2)
    assert start == ""
    assert body.startswith("\n# Model card: ")
    parsed: dict[str, Any] = read(front_matter)
    return parsed


def classifier(classes: list[str], shape: tuple[int, int, int] = (1, 4, 4)) -> DataDescription:
    mean, std = [0.5] * shape[0], [1.0] * shape[0]
    return DataDescription(dataset="made up", classes=classes, shape=shape, mean=mean, std=std)


def split_of(data: DataDescription, targets: torch.Tensor, files: list[str] | None = None) -> tensors.Split:
    images = torch.empty(len(targets), *data.shape, dtype=torch.uint8)
    return tensors.Split(images, targets, torch.arange(len(targets)), data, "", files)


def evaluated(
    data: DataDescription, targets: torch.Tensor, logits: torch.Tensor, files: list[str] | None = None
) -> Evaluation:
    split = split_of(data, targets, files)
    return classification.evaluate([(slice(None), logits)], split, bins=5, max_mistakes=20)


def rendered(data: DataDescription, evaluation: Evaluation) -> str:
    model = model_file.ModelDescription(
        format=3,
        project="0.1.0",
        architecture=model_file.Architecture(model="mlp", hidden=[8], activation="tanh", dropout=0.5),
        data=data,
        images={"train": 70, "val": 30},
        parameters={"lr": 0.1, "activation": "tanh|relu"},
        arithmetic="portable",
        environment=None,
        weights_sha256="abc",
    )
    card = model_card.render(model, 3, {"models/model.json": "0" * 32}, evaluation)
    assert "\n\n\n" not in card
    assert card.endswith("|\n")
    return card


def test_the_card_has_the_numbers_of_the_reports(project: Project) -> None:
    project.command("card")
    reports = project.root / "reports"
    card = (reports / "model_card.md").read_text()
    assert re.findall("^## (.*)", card, re.MULTILINE) == [*SECTIONS, "How to reproduce"]
    metrics = json.loads((reports / "metrics.json").read_text())
    shown = {cells[0].split(":")[0]: cells[1:] for cells in table(card, "Metrics")[1:]}
    assert set(shown) == {"accuracy", "cross_entropy", "macro_f1", "calibration_error"}
    for name, (value, interval) in shown.items():
        assert value == f"{metrics[name]:.4g}"
        if interval:
            low, high = map(float, interval.split(" to "))
            assert low < metrics[name] < high
    assert shown["accuracy"][1] == f"{metrics['accuracy_low']:.4g} to {metrics['accuracy_high']:.4g}"
    by_class = pd.read_csv(reports / "classes.csv")
    assert [cells[2] for cells in table(card, "By class")[1:]] == [f"{recall:.1%}" for recall in by_class["recall"]]
    predictions = pd.read_csv(reports / "predictions.csv").astype({"actual": str, "predicted": str})
    matrix = [[int(cell.strip("*") or 0) for cell in cells[1:]] for cells in table(card, "Confusion")[1:]]
    np.testing.assert_array_equal(matrix, pd.crosstab(predictions["actual"], predictions["predicted"]))
    calibration = pd.read_csv(reports / "calibration.csv")
    assert [int(cells[2]) for cells in table(card, "Calibration")[1:]] == calibration["rows"].tolist()
    mean_confidence = f"its mean confidence is {predictions['confidence'].mean():.1%}, its accuracy"
    assert f"overconfident on average: {mean_confidence} {metrics['accuracy']:.1%}" in card
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    index, actual, predicted, confidence = wrong.sort_values("confidence", kind="stable").to_numpy()[-1]
    mistakes = table(card, "Most confident mistakes")
    assert len(mistakes) == 11
    assert mistakes[1] == [str(index), actual, f"{predicted} ({confidence:.1%})"]
    description = json.loads((project.root / model_file.MODEL.with_suffix(".json")).read_text())
    assert card.count(description["weights_sha256"]) == 2
    assert (
        "1,000 images of `mnist-5k`, the test split (0.2 of all images, drawn by split_seed 0, each class by itself; 0 "
        "training images are in it too, pixel for pixel)"
    ) in card
    parameters = {
        cells[0].strip("`"): json.loads(cells[1].strip("`")) for cells in table(card, "Training parameters")[1:]
    }
    assert parameters == description["parameters"]
    for read in YAML_READERS:
        assert metadata(card, read) == {
            "license": "unknown",
            "library_name": "pytorch",
            "tags": ["image-classification"],
            "pipeline_tag": "image-classification",
            "datasets": ["mnist-5k"],
            "metrics": ["accuracy", "f1"],
            "model-index": [
                {
                    "name": "mlp on mnist-5k",
                    "results": [
                        {
                            "task": {"type": "image-classification"},
                            "dataset": {"type": "mnist-5k", "name": "mnist-5k", "split": "test"},
                            "metrics": [
                                {"type": "accuracy", "value": metrics["accuracy"], "name": "accuracy"},
                                {"type": "f1", "value": metrics["macro_f1"], "name": "macro_f1"},
                            ],
                        }
                    ],
                }
            ],
        }


def test_the_command_in_the_card_prints_the_commit_that_added_it(project: Project) -> None:
    project.command("card")
    project.commit("the card")
    commit = project.run("git", "rev-parse", "HEAD").stdout
    (project.root / "notes.txt").write_text("something else")
    project.commit("another one")
    card = (project.root / "reports/model_card.md").read_text()
    command = re.search(r"\$ git checkout \$\((.*)\)", card)
    assert command
    assert project.run(*command[1].split()).stdout == commit


def test_the_report_names_a_card_of_other_results(project: Project) -> None:
    """It compares the checksums in the card with dvc.lock."""
    warning = "`reports/model_card.md` describes other results; `make card` updates it"
    report = ("python", "-m", "experiments.report", "HEAD")
    project.command("card")
    assert "model_card" not in project.run(*report).stdout
    card = (project.root / CARD).read_text()
    for path in ("models/model.json", "reports/calibration.csv"):
        md5 = hashlib.md5((project.root / path).read_bytes()).hexdigest()
        assert card.count(md5) == 1
        (project.root / CARD).write_text(card.replace(md5, "0" * 32))
        assert warning in project.run(*report).stdout
    (project.root / CARD).unlink()
    assert "model_card" not in project.run(*report).stdout


def test_a_card_of_other_results_is_refused(project: Project) -> None:
    project.command("card")
    project.set(epochs=1)
    project.stage("train")
    before = (project.root / CARD).read_text()
    refused = project.command("card", fails=True)
    assert refused.stderr == (
        "card: error: reports/metrics.json: not of the model in models/model.safetensors; run `dvc repro`, then `make "
        "card`\n"
    )
    assert (project.root / CARD).read_text() == before
    project.stage("evaluate")
    project.command("card")
    assert (project.root / CARD).read_text() != before
    (project.root / "reports/metrics.json").write_text("{")
    assert "damaged" in project.command("card", fails=True).stderr


def test_many_classes_and_one_without_images() -> None:
    """The card shows the classes with the lowest recall and the most frequent confusions. Class 24 has no image."""
    data = classifier([f"c{n}|" for n in range(25)], shape=(3, 4, 4))
    targets = torch.arange(480) % 24
    logits = torch.nn.functional.one_hot(targets, 25).double() * 4
    logits[targets == 7] = logits[targets == 8][0]
    evaluation = evaluated(data, targets, logits)
    card = rendered(data, evaluation)
    rows = table(card.replace("\\|", "/"), "By class")
    assert len(rows) == 21
    assert rows[1][:4] == ["c7/", "20", "0.0%", "0.0% to 16.1%"]
    assert "The classes with the lowest recall; `reports/classes.csv` has all 25." in card
    assert table(card.replace("\\|", "/"), "Confusion")[1] == ["c7/ taken for c8/", "20"]
    assert "Lowest recall: class c7|, 0.0% of 20 images." in card
    assert "into 25 classes: c0|, c1|, " in card
    assert "c19|, and 5 more. Other uses" in card
    assert "- Classes with fewer than 30 test images, too few for a reliable estimate: 25 (c0|, c1|, " in card
    assert '| `activation` | `"tanh\\|relu"` |' in card
    assert {cells[0].split(":")[0] for cells in table(card, "Metrics")} >= {"top_5_accuracy"}
    low, high = model_card.intervals(evaluation, data)["top_5_accuracy"]
    assert low < evaluation.metrics["top_5_accuracy"] < high


def test_a_card_without_mistakes() -> None:
    data = classifier(["a", "b"])
    targets = torch.arange(10) % 2
    card = rendered(data, evaluated(data, targets, torch.nn.functional.one_hot(targets, 2).double() * 9))
    assert "None: the model made no mistakes" in card
    assert "mistakes.png" not in card
    assert "nan" not in card
    assert "Lowest recall" not in card
    assert "underconfident" in card
    assert table(card, "Metrics")[3][1:] == ["1", ""], "a bootstrap of correct predictions alone has no spread"


def test_a_test_split_of_one_image() -> None:
    data = classifier(["a", "b"])
    for logits in ([[2.0, 1.0]], [[1.0, 2.0]]):
        card = rendered(data, evaluated(data, torch.tensor([0]), torch.tensor(logits).double()))
        assert "nan" not in card


def test_names_are_not_read_as_markdown() -> None:
    data = classifier(["*a*", "<b>", "c_d`", "$x$", "two\n# lines"])
    targets = torch.arange(30) % 5
    logits = torch.nn.functional.one_hot((targets + 1) % 5, 5).double()
    card = rendered(data, evaluated(data, targets, logits))
    assert r"into 5 classes: \*a\*, \<b\>, c\_d\`, \$x\$, two \# lines. Other" in card
    assert table(card, "By class")[2][0] == r"\<b\>"


@pytest.mark.parametrize("read", YAML_READERS)
def test_any_column_name_gives_valid_metadata(read: Callable[[str], Any]) -> None:
    names = ["a: b", 'the "size"', "it's", "back\\slash", "two\nlines", "tab\t", " spaces ", "a.b", "- x", "# y", "---"]
    names += ["no", "1e5", "010", "{{ weights }}", "{% if %}", "d\u00e9 \u4e03", "\U0001f600", "\x07", "\x85", "\u2028"]
    quantities = [Quantity(name=name, mean=0.0, std=1.0) for name in names]
    data = classifier([]).model_copy(update={"quantities": quantities, "dataset": "csv"})
    targets = torch.arange(3, dtype=torch.float64)[:, None].repeat(1, len(names))
    evaluation = regression.evaluate([(slice(None), targets + 1e-5)], split_of(data, targets), max_mistakes=2)
    parsed = metadata(rendered(data, evaluation), read)
    assert parsed["tags"] == ["image-regression"]
    assert parsed["metrics"] == ["r_squared", "mae"]
    assert "datasets" not in parsed, "a hub does not have the user's own images"
    (result,) = parsed["model-index"][0]["results"]
    values = {each["name"]: each["value"] for each in result["metrics"]}
    assert values.pop("r2") == evaluation.metrics["r2"]
    assert values == {f"{name}.{key}": evaluation.metrics[name][key] for name in names for key in ("mae", "r2")}
    assert min(values.values()) < 2e-5, "which Python writes with an exponent, text in YAML 1.1"


def test_mistakes_name_their_files() -> None:
    data = classifier(["a", "b"])
    targets = torch.arange(30) % 2
    logits = torch.nn.functional.one_hot(1 - targets, 2).double()
    files = [f"*a*/one | two/new\nline {row}.png" for row in range(30)]
    card = rendered(data, evaluated(data, targets, logits, files))
    rows = table(card.replace("\\|", "/"), "Most confident mistakes")
    assert rows[0] == ["file", "actual", "predicted"]
    assert [cells[0] for cells in rows[1:]] == [rf"\*a\*/one / two/new\\nline {row}.png" for row in range(10)]
    assert rows[1][1:] == ["a", "b (73.1%)"]
    assert "`reports/predictions.csv` has the prediction for each file." in card


def test_a_regression() -> None:
    quantities = [Quantity(name="angle", mean=10.0, std=2.0), Quantity(name="size", mean=0.0, std=1.0)]
    data = classifier([]).model_copy(update={"quantities": quantities})
    random = np.random.default_rng(0)
    targets = torch.from_numpy(random.normal([10, 0], [2, 1], (200, 2)))
    outputs = (targets - torch.tensor([10, 0])) / torch.tensor([2, 1]) + 0.1
    evaluation = regression.evaluate([(slice(None), outputs)], split_of(data, targets), max_mistakes=2)
    card = rendered(data, evaluation)
    shown = {cells[0].split(":")[0]: cells[1:] for cells in table(card, "Metrics")[1:]}
    assert set(shown) == {"r2", "angle.mae", "angle.rmse", "angle.r2", "size.mae", "size.rmse", "size.r2"}
    assert shown["angle.mae"] == ["0.2", "0.2 to 0.2"]
    assert len(table(card, "Largest errors")) == 3
    assert "Prediction of angle, size from images" in card
    assert sum(int(cells[1]) for cells in table(card, "Errors")[1:]) == 400
    for heading in ("Confusion", "Calibration", "By class"):
        assert f"### {heading}" not in card
