"""Do these results come out again? A clone of the last commit is run from nothing and compared with what it says.

    make verify          (python -m experiments.verify)

Fails where dvc.lock or reports/ do not belong to the code and the parameters, or reports/ contradict themselves: both
take seconds to see. Then it runs everything again:

on the kind of processor that reports/train.json names    every byte of dvc.lock and reports/ has to be the same
on another kind                                           the figures may move

Another kind of processor rounds the last bits differently, and where a training is sensitive that acts like another
seed: at lr 0.01 the default model had accuracies from 0.876 to 0.911 with six kinds of rounding, from 0.882 to 0.902
with five seeds. So no narrow tolerance holds. There a run from nothing only shows a figure that is grossly wrong.
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
from experiments.results import output
from experiments.status import CARD, card_of_other_results, shortened_list, stale
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS, read
from stages.lib.validation.rules import check_all

METRICS = Path("reports/metrics.json")
SUMMARY = Path("reports/train.json")
CURVES = Path("reports/train.csv")
PREDICTIONS = Path("reports/predictions.csv")
LEAST = 1e-6  # relative difference between a figure and what the tables give, which have nine digits and more
# Differences that rounding does not explain: of accuracies, if they are significant on these images; and relative ones
# of mean absolute errors. Those between seeds are half as large, in unstable trainings too.
GROSS_ACCURACY, P_VALUE = 0.05, 1e-4
GROSS_ERROR = 0.25


def main() -> None:
    mirror = os.environ.get("DATASET_MIRROR", "")
    if Path(mirror).is_dir():
        os.environ["DATASET_MIRROR"] = str(Path(mirror).resolve())
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        done = subprocess.run(["git", "clone", "--quiet", ".", clone], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"git clone: {done.stderr}")
        if sources := output("git", "ls-files", "--", "*.dvc").splitlines():
            share_dvc(clone)  # which runs every stage all the same
        with chdir(clone):
            verify(sources)


def verify(sources: Sequence[str] = ()) -> None:
    """Compare the commit in this folder with a run from nothing.

    Args:
        sources: the files of `dvc add` whose data have to be fetched first.

    Raises:
        UserError: it gives other results.
    """
    check_all(read(PARAMETERS))
    if changed := stale():
        raise UserError(
            f"dvc.lock and reports/ are of another state than the commit, changed since: {shortened_list(changed)}; "
            "run `make repro`, then commit dvc.lock and reports/ together with the change"
        )
    committed = read_results()
    if wrong := contradictions(committed):
        raise UserError(
            f"reports/ contradict themselves: {shortened_list(wrong)}; run `dvc repro --force` and commit its results"
        )
    if sources:
        output("dvc", "pull", *sources)
    if subprocess.run(["dvc", "repro", "--force"], check=False).returncode:
        raise UserError("`dvc repro --force` failed in a clone of the last commit, see above")
    files = subprocess.run(["git", "diff", "--name-only"], capture_output=True, text=True, check=True).stdout.split()
    print(f"verified: {comparison(committed, read_results(), files)}")
    if card_of_other_results():
        print(f"{CARD} is of other results; `make card` writes it anew")


@dataclass(frozen=True)
class Results:
    """What the reports say."""

    metrics: dict[str, float]
    summary: dict[str, Any]  # of the training
    curves: pd.DataFrame  # a row per epoch
    predictions: pd.DataFrame  # a row per test image (and quantity): index, actual, predicted, ...

    @property
    def processor(self) -> str:
        """The kind of processor that they were made on."""
        return str(self.summary.get("processor", "unknown"))

    @property
    def figures(self) -> dict[str, Any]:
        """Everything in the two JSON files, by file and name."""
        return {f"{METRICS} {name}": value for name, value in self.metrics.items()} | {
            f"{SUMMARY} {name}": value for name, value in self.summary.items()
        }


def read_results() -> Results:
    """Read the reports in this folder."""
    return Results(
        flat(json.loads(METRICS.read_text(encoding="utf-8"))),
        json.loads(SUMMARY.read_text(encoding="utf-8")),
        pd.read_csv(CURVES),
        pd.read_csv(PREDICTIONS, dtype=str, keep_default_na=False),
    )


def contradictions(results: Results) -> list[str]:
    """List the figures that do not follow from the tables beside them."""
    best = results.curves.iloc[results.curves["val_loss"].argmin()]
    score = "r2" if "residual" in results.predictions else "accuracy"
    expected = {f"{METRICS} {name}": value for name, value in figures_of(results.predictions).items()} | {
        f"{METRICS} rows": results.predictions["index"].nunique(),
        f"{SUMMARY} best_epoch": best["epoch"],
        f"{SUMMARY} epochs": len(results.curves),
        **{f"{SUMMARY} {part}_loss": best[f"{part}_loss"] for part in ("train", "val")},
        **{f"{SUMMARY} {part}_{score}": best[f"{part}_score"] for part in ("train", "val")},
    }
    return [
        f"{name} is {results.figures.get(name)}, the table gives {value:.9g}"
        for name, value in expected.items()
        if not np.isclose(results.figures.get(name, np.nan), value, rtol=LEAST, atol=0)
    ]


def figures_of(predictions: pd.DataFrame) -> dict[str, float]:
    """Compute the accuracy, or each quantity's mean absolute error, from the predictions."""
    if "residual" not in predictions:
        return {"accuracy": float((predictions["actual"] == predictions["predicted"]).mean())}
    errors = predictions["residual"].astype(float).abs().groupby(predictions["quantity"], sort=False).mean()
    return {"mae" if len(errors) == 1 else f"{name}.mae": float(error) for name, error in errors.items()}


def comparison(committed: Results, rerun: Results, files: list[str]) -> str:
    """Compare the commit with a run from nothing, in words.

    Args:
        committed: what the commit says.
        rerun: what the run gave.
        files: those that came out with other bytes.

    Raises:
        UserError: the results are not those of the commit.
    """
    if not files:
        return "the results of this commit came out again, the same to the last bit"
    different = [
        f"{name} {committed.figures.get(name)} is {value}"
        for name, value in rerun.figures.items()
        if committed.figures.get(name) != value
    ] or files
    if committed.processor == rerun.processor:
        raise UserError(
            "a run from nothing gives other results than the commit, on the same kind of processor: "
            f"{shortened_list(different)}; run `dvc repro --force` and commit what it gives"
        )
    rows = ["index", "actual"]
    if not committed.predictions[rows].equals(rerun.predictions[rows]):
        raise UserError(f"{PREDICTIONS} is of other test rows; run `make repro` and commit what it gives")
    kinds = f"made on {committed.processor}, verified on {rerun.processor}, which rounds differently"
    if gross := gross_differences(committed.predictions, rerun.predictions):
        raise UserError(
            "a run from nothing gives other results than the commit, by more than rounding explains: "
            f"{shortened_list(gross)} "
            f"({kinds}); check that the commit has all that changed; if it has, a lower lr or a longer warmup makes "
            "this training less sensitive to rounding"
        )
    before, after = figures_of(committed.predictions), figures_of(rerun.predictions)
    moved = shortened_list([f"{name} {before[name]:.4g} is {after[name]:.4g}" for name in before])
    return (
        f"not to the last bit, but no figure contradicts this commit: {moved} ({kinds}); run it on the first kind to "
        "verify every bit"
    )


def gross_differences(committed: pd.DataFrame, rerun: pd.DataFrame) -> list[str]:
    """List the figures that differ by more than another rounding explains."""
    before, after = figures_of(committed), figures_of(rerun)
    if "residual" in committed:
        gross = [name for name in before if abs(after[name] - before[name]) > GROSS_ERROR * before[name]]
    else:
        tested = paired(*((side["actual"] == side["predicted"]).to_numpy() for side in (committed, rerun)))
        gross = ["accuracy"] if abs(tested.difference) > GROSS_ACCURACY and tested.p_value < P_VALUE else []
    return [f"{name} {before[name]:.4g} is {after[name]:.4g}" for name in gross]


if __name__ == "__main__":
    run(main)
