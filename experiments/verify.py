"""Verify the results of the last commit: run a clone of it from nothing, and compare.

    make verify          (python -m experiments.verify)

Two checks take seconds: dvc.lock and reports/ belong to the code and the parameters, and reports/ are consistent. Then
everything runs again:

in portable arithmetic                   every byte of dvc.lock and reports/ has to be the same
in native arithmetic, on the kind of
  processor that reports/train.json names    the same
  on another kind                        the metrics may differ, but not grossly

In native arithmetic another kind of processor rounds the last bits differently. If a training is sensitive, that acts
like another seed: at lr 0.01 the default model had accuracies from 0.876 to 0.911 with six kinds of rounding, from
0.882 to 0.902 with five seeds. So no narrow tolerance holds.
"""

from stages.lib.core.process import run

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from commands.lib.flat import flat
from experiments.clone import share_dvc
from experiments.comparison import paired
from experiments.shell import output
from experiments.status import card_is_outdated, shortened_list, stale
from experiments.tracked import CARD, CURVES, METRICS, PREDICTIONS, SUMMARY
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS, read
from stages.lib.validation.rules import check_all

ANY = "any"
TOLERANCE = 1e-6  # relative, of a metric computed from the tables, which have nine digits and more
# Differences that rounding does not explain: in accuracy, if they are significant on these images, and relative ones in
# mean absolute error; and predictions of a regression that moved, on average, by half of what the actual values vary.
# Differences between seeds are half as large, even in unstable trainings.
GROSS_ACCURACY, P_VALUE = 0.05, 1e-4
GROSS_ERROR, GROSS_MOVE = 0.25, 0.5


def main() -> None:
    mirror = os.environ.get("DATASET_MIRROR", "")
    if Path(mirror).is_dir():
        os.environ["DATASET_MIRROR"] = str(Path(mirror).resolve())
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        output("git", "clone", "--quiet", ".", str(clone))
        if sources := output("git", "ls-files", "--", "*.dvc").splitlines():
            share_dvc(clone)  # for `dvc pull`; every stage still runs
        with chdir(clone):
            verify(sources)


def verify(sources: Sequence[str] = ()) -> None:
    """Compare the results of the commit in this folder with those of a run from nothing.

    Args:
        sources: the `.dvc` files of the data to pull first.

    Raises:
        UserError: the results differ.
    """
    check_all(read(PARAMETERS))  # an invalid params.yaml is reported before anything that follows from it
    if changed := stale():
        raise UserError(
            f"dvc.lock and reports/ are out of date, changed since: {shortened_list(changed)}; "
            "run `make repro`, then commit dvc.lock and reports/ together with the change"
        )
    committed = read_results()
    if wrong := inconsistencies(committed):
        raise UserError(
            f"reports/ are inconsistent: {shortened_list(wrong)}; run `dvc repro --force` and commit its results"
        )
    if sources:
        output("dvc", "pull", *sources)
    if subprocess.run(["dvc", "repro", "--force"], check=False).returncode:
        raise UserError("`dvc repro --force` failed in a clone of the last commit, see above")
    files = output("git", "diff", "--name-only").split()
    print(f"verified: {compare(committed, read_results(), files)}")
    if card_is_outdated():
        print(f"{CARD} describes other results; `make card` updates it")


@dataclass(frozen=True)
class Results:
    """The contents of reports/."""

    metrics: dict[str, float]
    summary: dict[str, Any]  # reports/train.json
    curves: pd.DataFrame  # a row per epoch
    predictions: pd.DataFrame  # a row per test image (and quantity): index, actual, predicted, ...

    @property
    def processor(self) -> str:
        """The kind of processor that trained the model; ANY in portable arithmetic, which records none."""
        return str(self.summary.get("processor", ANY))

    @property
    def values(self) -> dict[str, Any]:
        """All values in the two JSON files, by file and name."""
        return {f"{METRICS} {name}": value for name, value in self.metrics.items()} | {
            f"{SUMMARY} {name}": value for name, value in self.summary.items()
        }


def read_results() -> Results:
    """Read the results in this folder."""
    return Results(
        flat(json.loads(Path(METRICS).read_text(encoding="utf-8"))),
        json.loads(Path(SUMMARY).read_text(encoding="utf-8")),
        pd.read_csv(CURVES),
        pd.read_csv(PREDICTIONS, dtype=str, keep_default_na=False),
    )


def inconsistencies(results: Results) -> list[str]:
    """List the metrics that do not follow from the tables of predictions and epochs."""
    best = results.curves.iloc[results.curves["val_loss"].argmin()]
    score = "r2" if "residual" in results.predictions else "accuracy"
    expected = {f"{METRICS} {name}": value for name, value in metrics_of(results.predictions).items()}
    expected[f"{METRICS} rows"] = results.predictions["index"].nunique()
    expected[f"{SUMMARY} best_epoch"] = best["epoch"]
    expected[f"{SUMMARY} epochs"] = len(results.curves)
    for split in ("train", "val"):
        expected[f"{SUMMARY} {split}_loss"] = best[f"{split}_loss"]
        expected[f"{SUMMARY} {split}_{score}"] = best[f"{split}_score"]
    return [
        f"{name} is {results.values.get(name)}, the table gives {value:.9g}"
        for name, value in expected.items()
        if not np.isclose(results.values.get(name, np.nan), value, rtol=TOLERANCE, atol=0)
    ]


def metrics_of(predictions: pd.DataFrame) -> dict[str, float]:
    """Compute the accuracy, or each quantity's mean absolute error, from the predictions."""
    if "residual" not in predictions:
        return {"accuracy": float((predictions["actual"] == predictions["predicted"]).mean())}
    errors = predictions["residual"].astype(float).abs().groupby(predictions["quantity"], sort=False).mean()
    return {"mae" if len(errors) == 1 else f"{name}.mae": float(error) for name, error in errors.items()}


def compare(committed: Results, rerun: Results, files: list[str]) -> str:
    """Compare the results of the commit with those of a run from nothing, and return a summary.

    Args:
        committed: the results of the commit.
        rerun: the results of the run.
        files: the files of dvc.lock and reports/ whose bytes differ.

    Raises:
        UserError: the run does not confirm the commit.
    """
    if not files:
        return "a run from nothing gives the same results, to the last bit"
    different = [
        f"{name} {committed.values.get(name)} is {value}"
        for name, value in rerun.values.items()
        if committed.values.get(name) != value
    ] or files
    if committed.processor == rerun.processor:
        where = "in portable arithmetic" if committed.processor == ANY else "on the same kind of processor"
        raise UserError(
            f"a run from nothing gives other results than the commit, {where}: {shortened_list(different)}; "
            "run `dvc repro --force` and commit its results"
        )
    rows = ["index", "actual"]
    if not committed.predictions[rows].equals(rerun.predictions[rows]):
        raise UserError(f"{PREDICTIONS} has other test rows than a run from nothing; run `make repro` and commit it")
    kinds = f"trained on {committed.processor}, verified on {rerun.processor}, which rounds differently"
    if gross := gross_differences(committed.predictions, rerun.predictions):
        raise UserError(
            "a run from nothing gives other results than the commit, by more than rounding explains: "
            f"{shortened_list(gross)} ({kinds}); check that everything is committed; if it is, a lower lr or a longer "
            "warmup makes this training less sensitive to rounding"
        )
    before, after = metrics_of(committed.predictions), metrics_of(rerun.predictions)
    changes = shortened_list([f"{name} {before[name]:.4g} is {after[name]:.4g}" for name in before])
    return (
        f"not to the last bit, but no metric differs by more than rounding explains: {changes} ({kinds}); run it on "
        f"{committed.processor} to verify every bit"
    )


def gross_differences(committed: pd.DataFrame, rerun: pd.DataFrame) -> list[str]:
    """List the metrics that differ by more than rounding explains."""
    before, after = metrics_of(committed), metrics_of(rerun)
    if "residual" in committed:
        gross = [name for name in before if abs(after[name] - before[name]) > GROSS_ERROR * before[name]]
        if moved := moved_predictions(committed, rerun):
            return [
                f"the predictions of {name} moved by {share:.2g} standard deviations" for name, share in moved.items()
            ]
    else:
        test = paired(*((side["actual"] == side["predicted"]).to_numpy() for side in (committed, rerun)))
        gross = ["accuracy"] if abs(test.difference) > GROSS_ACCURACY and test.p_value < P_VALUE else []
    return [f"{name} {before[name]:.4g} is {after[name]:.4g}" for name in gross]


def moved_predictions(committed: pd.DataFrame, rerun: pd.DataFrame) -> dict[str, float]:
    """Return by how many standard deviations of the actual values each quantity's predictions moved, if too far."""
    moved = {}
    for name, rows in committed.groupby("quantity", sort=False):
        before, after = (side.loc[rows.index, "residual"].astype(float).to_numpy() for side in (committed, rerun))
        spread = float(rows["actual"].astype(float).std(ddof=0))
        distance = float(np.sqrt(np.mean((after - before) ** 2)))
        if distance > GROSS_MOVE * spread:
            moved[str(name)] = distance / spread if spread else np.inf
    return moved


if __name__ == "__main__":
    run(main)
