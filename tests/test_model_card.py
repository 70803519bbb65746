"""The model card: what evaluate found, and nothing else."""

import hashlib
import json
import re

import numpy as np
import pandas as pd
import torch

from commands.card import CARD
from commands.lib import model_card
from stages.lib.model import model_file
from stages.lib.reporting import classification, regression
from stages.lib.splits.description import DataDescription, Quantity
from tests.conftest import Project

ARCHITECTURE = model_file.Architecture(model="mlp", hidden=[8], activation="tanh", dropout=0.5)
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


def table(card: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, its head first."""
    lines = card.split(f"# {heading}\n", 1)[1].lstrip().split("\n\n")
    rows = next(part for part in lines if part.startswith("|")).splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in [rows[0], *rows[2:]]]


def described(data: DataDescription) -> model_file.ModelDescription:
    return model_file.ModelDescription(
        format=2,
        architecture=ARCHITECTURE,
        data=data,
        images={"train": 70, "val": 30},
        parameters={"lr": 0.1, "activation": "tanh|relu"},
        threads=1,
        weights_sha256="abc",
        versions=model_file.Versions(project="0.1.0", torch="2.13.0"),
    )


def test_it_tells_what_the_reports_tell(project: Project) -> None:
    project.command("card")
    reports = project.root / "reports"
    card = (reports / "model_card.md").read_text()
    assert re.findall("^## (.*)", card, re.MULTILINE) == [*SECTIONS, "How to reproduce"]
    figures = json.loads((reports / "metrics.json").read_text())
    told = {cells[0].split(":")[0]: cells[1:] for cells in table(card, "Metrics")[1:]}
    assert set(told) == {"accuracy", "cross_entropy", "macro_f1", "calibration_error"}
    for name, (value, interval) in told.items():
        assert value == f"{figures[name]:.4g}"
        if interval:
            low, high = map(float, interval.split(" to "))
            assert low < figures[name] < high
    assert told["accuracy"][1] == f"{figures['accuracy_low']:.4g} to {figures['accuracy_high']:.4g}"
    by_class = pd.read_csv(reports / "classes.csv")
    assert [cells[2] for cells in table(card, "By class")[1:]] == [f"{recall:.1%}" for recall in by_class["recall"]]
    predictions = pd.read_csv(reports / "predictions.csv").astype({"actual": str, "predicted": str})
    matrix = [[int(cell.strip("*") or 0) for cell in cells[1:]] for cells in table(card, "Confusion")[1:]]
    np.testing.assert_array_equal(matrix, pd.crosstab(predictions["actual"], predictions["predicted"]))
    calibration = pd.read_csv(reports / "calibration.csv")
    assert [int(cells[2]) for cells in table(card, "Calibration")[1:]] == calibration["rows"].tolist()
    wrong = predictions[predictions["actual"] != predictions["predicted"]]
    index, actual, predicted, confidence = wrong.sort_values("confidence", kind="stable").to_numpy()[-1]
    mistakes = table(card, "Most confident mistakes")
    assert len(mistakes) == 11
    assert mistakes[1] == [str(index), actual, f"{predicted} ({confidence:.1%})"]
    description = json.loads((project.root / model_file.MODEL.with_suffix(".json")).read_text())
    assert card.count(description["weights_sha256"]) == 2
    assert (
        "1,000 images of `mnist-5k`, the test split (0.2 of all images, drawn by split_seed 0, each class by itself; 0 "
        "of the training images are in it too, pixel for pixel)"
    ) in card
    told = {
        cells[0].strip("`"): json.loads(cells[1].strip("`")) for cells in table(card, "Parameters of the training")[1:]
    }
    assert told == description["parameters"]


def test_its_command_finds_the_commit_that_brought_it(project: Project) -> None:
    project.command("card")
    project.commit("the card")
    brought = project.run("git", "rev-parse", "HEAD").stdout
    (project.root / "notes.txt").write_text("something else")
    project.commit("another one")
    card = (project.root / "reports/model_card.md").read_text()
    command = re.search(r"\$ git checkout \$\((.*)\)", card)
    assert command
    assert project.run(*command[1].split()).stdout == brought


def test_a_report_tells_of_a_card_of_other_results(project: Project) -> None:
    """It finds that out from what is in git."""
    told = "`reports/model_card.md` tells of other results. `make card` writes it anew"
    report = ("python", "-m", "experiments.report", "HEAD")
    project.command("card")
    assert "model_card" not in project.run(*report).stdout
    card = (project.root / CARD).read_text()
    for path in ("models/model.json", "reports/calibration.csv"):
        md5 = hashlib.md5((project.root / path).read_bytes()).hexdigest()
        assert card.count(md5) == 1
        (project.root / CARD).write_text(card.replace(md5, "0" * 32))
        assert told in project.run(*report).stdout
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
    """The weakest are told of, and the most frequent confusions; class 24 is not tested at all."""
    data = DataDescription(
        dataset="many", classes=[f"c{n}|" for n in range(25)], shape=(3, 4, 4), mean=[0.1, 0.2, 0.3], std=[1.0] * 3
    )
    targets = torch.arange(480) % 24
    logits = torch.nn.functional.one_hot(targets, 25).double() * 4
    logits[targets == 7] = logits[targets == 8][0]
    found = classification.judge([(slice(None), logits)], targets, np.arange(480), data, bins=5, most=2)
    card = model_card.written(described(data), 3, {}, found)
    rows = table(card.replace("\\|", "/"), "By class")
    assert len(rows) == 21
    assert rows[1][:4] == ["c7/", "20", "0.0%", "0.0% to 16.1%"]
    assert "The 20 of 25 that are found least" in card
    assert table(card.replace("\\|", "/"), "Confusion")[1] == ["c7/ taken for c8/", "20"]
    assert "It finds c7| least: 0.0% of 20 images." in card
    assert "- Classes with fewer than 30 test images, too few to judge by: 25 (c0|, c1|, " in card
    assert '| `activation` | `"tanh\\|relu"` |' in card
    assert {cells[0].split(":")[0] for cells in table(card, "Metrics")} >= {"top_5_accuracy"}
    low, high = model_card.intervals(found, data)["top_5_accuracy"]
    assert low < found.figures["top_5_accuracy"] < high


def test_no_mistake_at_all() -> None:
    data = DataDescription(dataset="easy", classes=["a", "b"], shape=(1, 4, 4), mean=[0.5], std=[1.0])
    targets = torch.arange(10) % 2
    logits = torch.nn.functional.one_hot(targets, 2).double() * 9
    found = classification.judge([(slice(None), logits)], targets, np.arange(10), data, bins=5, most=2)
    card = model_card.written(described(data), 3, {}, found)
    assert "None is shown: there is none" in card
    assert "mistakes.png" not in card
    assert "nan" not in card
    assert "least" not in card
    assert table(card, "Metrics")[3][1:] == ["1", ""], "no interval is to be had of macro F1"


def test_names_that_markdown_would_take_for_its_own() -> None:
    data = DataDescription(dataset="odd", classes=["*a*", "<b>", "c_d`"], shape=(1, 4, 4), mean=[0.5], std=[1.0])
    targets = torch.arange(30) % 3
    logits = torch.nn.functional.one_hot((targets + 1) % 3, 3).double()
    found = classification.judge([(slice(None), logits)], targets, np.arange(30), data, bins=5, most=2)
    card = model_card.written(described(data), 3, {}, found)
    assert r"apart on images like those of `odd`: \*a\*, \<b\>, c\_d\`." in card
    assert table(card, "By class")[2][0] == r"\<b\>"


def test_mistakes_name_their_files() -> None:
    data = DataDescription(dataset="own", classes=["a", "b"], shape=(1, 4, 4), mean=[0.5], std=[1.0])
    targets = torch.arange(30) % 2
    logits = torch.nn.functional.one_hot(1 - targets, 2).double()
    files = [f"*a*/one | two/new\nline {row}.png" for row in range(30)]
    found = classification.judge([(slice(None), logits)], targets, np.arange(30), data, files=files, bins=5, most=20)
    card = model_card.written(described(data), 3, {}, found)
    rows = table(card.replace("\\|", "/"), "Most confident mistakes")
    assert rows[0] == ["file", "actual", "predicted"]
    assert [cells[0] for cells in rows[1:]] == [rf"\*a\*/one / two/new\\nline {row}.png" for row in range(10)]
    assert rows[1][1:] == ["a", "b (73.1%)"]
    assert "`reports/predictions.csv` names the file of each." in card


def test_a_regression() -> None:
    quantities = [Quantity(name="angle", mean=10.0, std=2.0), Quantity(name="size", mean=0.0, std=1.0)]
    data = DataDescription(dataset="turned", classes=[], shape=(1, 4, 4), mean=[0.5], std=[1.0], quantities=quantities)
    random = np.random.default_rng(0)
    targets = torch.from_numpy(random.normal([10, 0], [2, 1], (200, 2)))
    outputs = (targets - torch.tensor([10, 0])) / torch.tensor([2, 1]) + 0.1
    found = regression.judge([(slice(None), outputs)], targets, np.arange(200), data, most=2)
    card = model_card.written(described(data), 3, {}, found)
    told = {cells[0].split(":")[0]: cells[1:] for cells in table(card, "Metrics")[1:]}
    assert set(told) == {"r2", "angle mae", "angle rmse", "angle r2", "size mae", "size rmse", "size r2"}
    assert told["angle mae"] == ["0.2", "0.2 to 0.2"]
    assert len(table(card, "Largest errors")) == 3
    assert "To predict `angle`, `size` from images" in card
    assert sum(int(cells[1]) for cells in table(card, "Errors")[1:]) == 400
    for heading in ("Confusion", "Calibration", "By class"):
        assert f"### {heading}" not in card
