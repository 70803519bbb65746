"""The checks of `make verify`. The whole command is tested in tests/project/test_pull_request.py."""

import re
import shutil

import pandas as pd
import pytest

from experiments.status import shortened_list, stale
from experiments.verify import Results, compare, inconsistencies
from stages.lib.core.errors import UserError
from tests.conftest import STAGES, Project

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
    """Results of a classifier that is wrong on the first `wrong` rows."""
    predictions = PREDICTIONS.copy()
    predictions.loc[: wrong - 1, "predicted"] = "8"
    accuracy = {"accuracy": 1 - wrong / ROWS, "cross_entropy": 0.3, "rows": ROWS}
    summary = SUMMARY | {"processor": processor, "train_accuracy": 0.8, "val_accuracy": 0.9}
    return Results(accuracy | metrics, summary, CURVES, predictions)


def regressed(error: float, *, processor: str = "one", **metrics: float) -> Results:
    """Results of a regression with the same error on every row."""
    actual = ["1995.0", "2005.0"] * (ROWS // 2)
    predictions = pd.DataFrame({"index": range(ROWS), "quantity": "age", "actual": actual, "residual": str(error)})
    predictions = predictions.astype({"index": str})
    summary = SUMMARY | {"processor": processor, "train_r2": 0.8, "val_r2": 0.9}
    return Results({"mae": abs(error), "rows": ROWS} | metrics, summary, CURVES, predictions)


def test_equal_bytes_are_verified_on_any_processor() -> None:
    assert "the same results, to the last bit" in compare(classified(80), classified(80, processor="other"), [])


@pytest.mark.parametrize(
    ("rerun", "words"),
    [
        (classified(81), "metrics.json accuracy 0.92 is 0.919"),
        (classified(80, cross_entropy=0.3000001), "metrics.json cross_entropy 0.3 is 0.3000001"),
        (classified(80), "the same kind of processor: reports/predictions.csv;"),
        (regressed(8.0), "metrics.json mae None is 8.0"),
    ],
)
def test_on_the_same_kind_of_processor_every_byte_has_to_be_the_same(rerun: Results, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(words)):
        compare(classified(80), rerun, ["reports/predictions.csv"])


@pytest.mark.parametrize(
    ("committed", "rerun"),
    [
        (classified(113), classified(120, processor="other", cross_entropy=0.4)),
        (
            classified(89),
            classified(124, processor="other"),
        ),  # the largest measured difference of two roundings
        (regressed(8.0), regressed(9.0, processor="other")),
    ],
)
def test_on_another_kind_of_processor_metrics_may_differ(committed: Results, rerun: Results) -> None:
    summary = compare(committed, rerun, ["dvc.lock", "reports/metrics.json"])
    assert "not to the last bit" in summary
    assert "trained on one, verified on other" in summary


@pytest.mark.parametrize(
    ("committed", "rerun"),
    [
        (classified(20), classified(100, processor="other")),
        (regressed(8.0), regressed(5.0, processor="other")),
        (regressed(4.0), regressed(-4.0, processor="other")),  # as far from 2000 +- 5, on the other side
    ],
)
def test_on_another_kind_of_processor_gross_differences_are_refused(committed: Results, rerun: Results) -> None:
    with pytest.raises(UserError, match="by more than rounding explains"):
        compare(committed, rerun, ["dvc.lock"])


def test_predictions_with_and_without_a_file_column_can_be_compared() -> None:
    rerun = classified(80, processor="other")
    rerun.predictions.insert(1, "file", "a.png")
    assert "not to the last bit" in compare(classified(80), rerun, ["reports/predictions.csv"])


def test_other_test_rows_are_refused() -> None:
    rerun = classified(80, processor="other")
    rerun.predictions.loc[0, "index"] = "7"
    with pytest.raises(UserError, match="has other test rows"):
        compare(classified(80), rerun, ["dvc.lock"])


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
def test_metrics_that_do_not_follow_from_the_tables_are_listed(results: Results, words: list[str]) -> None:
    assert inconsistencies(results) == words
    other = Results(results.metrics, results.summary | {"val_loss": 0.1, "best_epoch": 1}, CURVES, results.predictions)
    assert inconsistencies(other) == [
        *words,
        "reports/train.json best_epoch is 1, the table gives 2",
        "reports/train.json val_loss is 0.1, the table gives 0.6",
    ]


def test_data_and_models_of_another_branch_do_not_count(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project.root)
    (project.root / "models/model.json").write_text("of another branch")
    shutil.rmtree(project.root / "data/tensors")
    assert stale() == []


def test_a_stage_that_has_not_run_after_the_one_before_it_is_stale(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fresh.root)
    lock = (fresh.root / "dvc.lock").read_text()
    model = re.search(r"- path: models/model.json\n +hash: md5\n +md5: (\w+)", lock[lock.index("  evaluate:") :])
    assert model
    (fresh.root / "dvc.lock").write_text(lock.replace(model[1], "f" * 32, 1))
    assert "models/model.json" in " ".join(stale())


def test_long_lists_are_shortened() -> None:
    assert shortened_list(["a"] * 5) == "a, a, a, a, a"
    assert shortened_list(["a"] * 7) == "a, a, a, a, a and 2 more"


def test_changes_are_listed_by_stage_and_missing_data_do_not_count(
    fresh: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fresh.root)
    assert stale() == []
    fresh.set(lr=0.5, calibration_bins=3)
    (fresh.root / "stages/lib/training/schedules.py").write_text("")
    fresh.edit("dvc.yaml", "cmd: python -m stages.cache", "cmd: python -u -m stages.cache")
    (fresh.root / "reports/train.csv").unlink()
    (fresh.root / "reports/metrics.json").write_text("{}")
    assert set(stale()) == {
        "cache: changed command",
        "train: lr",
        "train: stages/lib/training/schedules.py",
        "train: reports/train.csv",
        "evaluate: calibration_bins",
        "evaluate: reports/metrics.json",
    }
    (fresh.root / "dvc.lock").write_text("<<<<<<<")
    with pytest.raises(UserError, match="dvc status .*dvc.lock"):
        stale()


def test_every_stage_that_a_changed_file_reruns_names_it(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh.root)
    package = fresh.root / "stages/lib/core"
    changed = [f"{stage}: stages/lib/core/errors.py" for stage in ["check", *STAGES]]
    with (package / "errors.py").open("a") as file:
        file.write("# another line\n")
    assert stale() == changed
    fresh.commit("a change of code without its results")
    assert stale() == changed

    (package / "__pycache__/errors.pyc").parent.mkdir()
    (package / "__pycache__/errors.pyc").touch()
    assert stale() == changed
    (package / "new.py").touch()
    (package / "sealed.py").unlink()
    listed = [entry for entry in stale() if entry.startswith("cache: ")]
    assert listed == [f"cache: stages/lib/core/{name}.py" for name in ("errors", "new", "sealed")]


def test_a_package_is_named_if_its_files_at_the_last_run_were_not_committed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.root)
    path = "stages/lib/reporting/metrics.py"
    with (project.root / path).open("a") as file:
        file.write("# a line\n")
    assert project.repro() == ["evaluate"]
    assert stale() == []
    project.edit(path, "# a line\n", "")
    assert stale() == ["evaluate: stages/lib/reporting"]
    project.edit("stages/evaluate.py", "def main() -> None:\n", "def main() -> None:\n    # a line\n")
    assert stale() == ["evaluate: stages/evaluate.py", "evaluate: stages/lib/reporting"]
