"""What is compared when a commit is verified. That it runs from nothing: tests/test_pull_request.py."""

import re
import shutil

import pandas as pd
import pytest

from experiments.status import named, stale
from experiments.verify import Results, differences
from stages.lib.stage import UserError
from tests.conftest import Project

PREDICTIONS = pd.DataFrame({"index": range(1000), "actual": "3", "predicted": "3"}).astype(str)
COMMITTED = Results({"accuracy": 0.923, "loss": 2.8, "rows": 1000}, PREDICTIONS)


NAMED = Results(COMMITTED.figures, PREDICTIONS.assign(file="a.png"))  # by a version that names files


def rerun(figures: dict[str, float], other_predictions: int = 0, first_index: int = 0) -> Results:
    predictions = PREDICTIONS.copy()
    predictions.loc[: other_predictions - 1, "predicted"] = "8"
    predictions.loc[0, "index"] = str(first_index)
    return Results(COMMITTED.figures | figures, predictions)


@pytest.mark.parametrize(
    "other",
    [rerun({}), rerun({"accuracy": 0.9279}), rerun({"accuracy": 0.9181}), rerun({"loss": 2.813}), rerun({}, 5), NAMED],
)
def test_rounding_is_allowed_for(other: Results) -> None:
    assert differences(COMMITTED, other) == differences(other, COMMITTED) == []


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (rerun({"accuracy": 0.929}), "accuracy 0.923 is 0.929"),
        (rerun({"accuracy": float("nan")}), "accuracy 0.923 is nan"),
        (rerun({"loss": 2.82}), "loss 2.8 is 2.82"),
        (rerun({"rows": 999}), "rows 1000 is 999"),
        (rerun({"top_5": 0.99}), "top_5 None is 0.99"),
        (rerun({}, 6), "reports/predictions.csv has 6 other predictions"),
        (rerun({}, 0, 7), "reports/predictions.csv is of other test rows"),
    ],
)
def test_other_results_are_refused(other: Results, words: str) -> None:
    assert differences(COMMITTED, other) == [words]


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
    assert named(["a: b"] * 7) == "a: b, a: b, a: b, a: b, a: b and 2 more"


def test_data_that_is_not_there_is_not_stale(fresh: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fresh.root)
    assert stale() == []
    fresh.set(lr=0.5, calibration_bins=3)
    (fresh.root / "stages/lib/schedules.py").write_text("")
    fresh.edit("dvc.yaml", "cmd: python -m stages.cache", "cmd: python -u -m stages.cache")
    (fresh.root / "reports/train.csv").unlink()
    (fresh.root / "reports/metrics.json").write_text("{}")
    assert set(stale()) == {
        *["cache: changed command", "train: lr", "train: stages/lib/schedules.py", "train: reports/train.csv"],
        *["evaluate: calibration_bins", "evaluate: reports/metrics.json"],
    }
    (fresh.root / "dvc.lock").write_text("<<<<<<<")
    with pytest.raises(UserError, match="dvc status: .*dvc.lock"):
        stale()
