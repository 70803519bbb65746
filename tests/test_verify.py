"""What is compared when a commit is verified. That it runs from nothing: tests/test_pull_request.py."""

import re
import shutil

import pandas as pd
import pytest

from experiments.status import shortened_list, stale
from experiments.verify import Results, comparison, contradictions
from stages.lib.core.errors import UserError
from tests.conftest import Project

ROWS = 1000
PREDICTIONS = pd.DataFrame({"index": range(ROWS), "actual": "3", "predicted": "3"}).astype(str)
CURVES = pd.DataFrame(
    {
        "epoch": [1, 2],
        "train_loss": [0.9, 0.5],
        "train_score": [0.6, 0.8],
        "val_loss": [0.7, 0.6],
        "val_score": [0.7, 0.9],
    }
)
SUMMARY = {"best_epoch": 2, "epochs": 2, "train_loss": 0.5, "val_loss": 0.6, "processor": "one"}


def classified(wrong: int, *, processor: str = "one", **metrics: float) -> Results:
    """Results of a classifier that is wrong on the first rows."""
    predictions = PREDICTIONS.copy()
    predictions.loc[: wrong - 1, "predicted"] = "8"
    accuracy = {"accuracy": 1 - wrong / ROWS, "cross_entropy": 0.3, "rows": ROWS}
    summary = SUMMARY | {"processor": processor, "train_accuracy": 0.8, "val_accuracy": 0.9}
    return Results(accuracy | metrics, summary, CURVES, predictions)


def regressed(error: float, *, processor: str = "one", **metrics: float) -> Results:
    """Results of a regression that is always as wrong."""
    predictions = pd.DataFrame({"index": range(ROWS), "quantity": "age", "actual": "2000.0", "residual": str(error)})
    predictions = predictions.astype({"index": str})
    summary = SUMMARY | {"processor": processor, "train_r2": 0.8, "val_r2": 0.9}
    return Results({"mae": error, "rows": ROWS} | metrics, summary, CURVES, predictions)


def test_equal_bytes_are_verified_anywhere() -> None:
    assert "the same to the last bit" in comparison(classified(80), classified(80, processor="other"), [])


@pytest.mark.parametrize(
    ("rerun", "words"),
    [
        (classified(81), "metrics.json accuracy 0.92 is 0.919"),
        (classified(80, cross_entropy=0.3000001), "metrics.json cross_entropy 0.3 is 0.3000001"),
        (classified(80), "the same kind of processor: reports/predictions.csv;"),
        (regressed(8.0), "metrics.json mae None is 8.0"),
    ],
)
def test_on_the_same_kind_of_processor_every_byte_counts(rerun: Results, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        comparison(classified(80), rerun, ["reports/predictions.csv"])


@pytest.mark.parametrize(
    ("committed", "rerun"),
    [
        (classified(113), classified(120, processor="other", cross_entropy=0.4)),
        (classified(89), classified(124, processor="other")),  # as far apart as two kinds of rounding were seen to be
        (regressed(8.0), regressed(9.0, processor="other")),
    ],
)
def test_on_another_kind_figures_may_move(committed: Results, rerun: Results) -> None:
    told = comparison(committed, rerun, ["dvc.lock", "reports/metrics.json"])
    assert "not to the last bit" in told
    assert "made on one, verified on other" in told


@pytest.mark.parametrize(
    ("committed", "rerun"),
    [(classified(20), classified(100, processor="other")), (regressed(8.0), regressed(5.0, processor="other"))],
)
def test_on_another_kind_gross_errors_are_refused(committed: Results, rerun: Results) -> None:
    with pytest.raises(UserError, match="by more than rounding explains"):
        comparison(committed, rerun, ["dvc.lock"])


def test_a_commit_of_before_files_were_named_can_be_compared() -> None:
    rerun = classified(80, processor="other")
    rerun.predictions.insert(1, "file", "a.png")
    assert "not to the last bit" in comparison(classified(80), rerun, ["reports/predictions.csv"])


def test_other_test_rows_are_refused() -> None:
    rerun = classified(80, processor="other")
    rerun.predictions.loc[0, "index"] = "7"
    with pytest.raises(UserError, match="is of other test rows"):
        comparison(classified(80), rerun, ["dvc.lock"])


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (classified(80), []),
        (regressed(8.0), []),
        (classified(80, accuracy=0.99), ["reports/metrics.json accuracy is 0.99, the table gives 0.92"]),
        (classified(80, accuracy=float("nan")), ["reports/metrics.json accuracy is nan, the table gives 0.92"]),
        (regressed(8.0, mae=3.0), ["reports/metrics.json mae is 3.0, the table gives 8"]),
        (regressed(1e-8, mae=1e-12), ["reports/metrics.json mae is 1e-12, the table gives 1e-08"]),
        (classified(80, rows=999), ["reports/metrics.json rows is 999, the table gives 1000"]),
    ],
)
def test_figures_that_their_tables_do_not_give(results: Results, words: list[str]) -> None:
    assert contradictions(results) == words
    other = Results(results.metrics, results.summary | {"val_loss": 0.1, "best_epoch": 1}, CURVES, results.predictions)
    assert contradictions(other) == [
        *words,
        "reports/train.json best_epoch is 1, the table gives 2",
        "reports/train.json val_loss is 0.1, the table gives 0.6",
    ]


def test_data_of_another_branch_are_not_stale(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    (project.root / "models/model.json").write_text("of another branch")
    shutil.rmtree(project.root / "data/tensors")
    assert stale() == []


def test_a_stage_that_was_left_out_is_stale(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh.root)
    lock = (fresh.root / "dvc.lock").read_text()
    model = re.search(r"- path: models/model.json\n +hash: md5\n +md5: (\w+)", lock[lock.index("  evaluate:") :])
    assert model
    (fresh.root / "dvc.lock").write_text(lock.replace(model[1], "f" * 32, 1))
    assert "models/model.json" in " ".join(stale())
    assert shortened_list(["a: b"] * 7) == "a: b, a: b, a: b, a: b, a: b and 2 more"


def test_data_that_is_not_there_is_not_stale(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh.root)
    assert stale() == []
    fresh.set(lr=0.5, calibration_bins=3)
    (fresh.root / "stages/lib/training/schedules.py").write_text("")
    fresh.edit("dvc.yaml", "cmd: python -m stages.cache", "cmd: python -u -m stages.cache")
    (fresh.root / "reports/train.csv").unlink()
    (fresh.root / "reports/metrics.json").write_text("{}")
    assert set(stale()) == {
        *["cache: changed command", "train: lr", "train: stages/lib/training/schedules.py", "train: reports/train.csv"],
        *["evaluate: calibration_bins", "evaluate: reports/metrics.json"],
    }
    (fresh.root / "dvc.lock").write_text("<<<<<<<")
    with pytest.raises(UserError, match="dvc status: .*dvc.lock"):
        stale()
