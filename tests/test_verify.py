"""What is compared when a commit is verified. That it runs from nothing: tests/test_pull_request.py."""

import pytest

from experiments.status import stale
from experiments.verify import compare
from stages.lib.stage import UserError
from tests.conftest import Project

COMMITTED = {"accuracy": 0.923, "loss": 2.8, "rows": 1000}


@pytest.mark.parametrize("rerun", [{}, {"accuracy": 0.9279}, {"accuracy": 0.9181}, {"loss": 2.813}])
def test_rounding_is_allowed_for(rerun: dict[str, float]) -> None:
    compare(COMMITTED, {**COMMITTED, **rerun})


@pytest.mark.parametrize(
    ("rerun", "words"),
    [
        ({"accuracy": 0.929}, "accuracy 0.923 is 0.929"),
        ({"accuracy": float("nan")}, "accuracy 0.923 is nan"),
        ({"loss": 2.82}, "loss 2.8 is 2.82"),
        ({"rows": 999}, "rows 1000 is 999"),
        ({"top_5": 0.99}, "top_5 None is 0.99"),
    ],
)
def test_other_metrics_are_refused(rerun: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=f"a run from nothing gives other metrics than the commit: {words} "):
        compare(COMMITTED, {**COMMITTED, **rerun})


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
