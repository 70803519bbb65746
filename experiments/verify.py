"""Do these results come out again? A clone of the last commit is run from nothing and compared with what it says.

    make verify          (python -m experiments.verify)

Fails where dvc.lock or reports/ do not belong to the code and the parameters, which takes two seconds to see, and where
a run from nothing gives other metrics. Equal to the last bit is expected on one family of processors; another family
may round otherwise, which TOLERANCE allows for.
"""

import json
import math
import os
import subprocess
import tempfile
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.figures import flat
from experiments.status import CARD, card_of_other_results, named, stale
from stages.lib.parameters import StageParameters, load
from stages.lib.stage import UserError, run

FIGURES = (Path("reports/metrics.json"), Path("reports/train.json"))
PREDICTIONS = Path("reports/predictions.csv")
MAY_MOVE = {"best_epoch", "epochs"}  # of two epochs that are nearly equal, rounding may prefer either
TOLERANCE = 0.005  # of a share such as accuracy, half a point; of other numbers, half a percent


def main() -> None:
    mirror = os.environ.get("DATASET_MIRROR", "")
    if Path(mirror).is_dir():
        os.environ["DATASET_MIRROR"] = str(Path(mirror).resolve())
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        done = subprocess.run(["git", "clone", "--quiet", ".", clone], capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"git clone: {done.stderr}")
        with chdir(clone):
            verify()


def verify() -> None:
    """Compare the commit in this folder with a run from nothing.

    Raises:
        UserError: it says something else.
    """
    load(StageParameters)  # the whole of params.yaml is checked before anything else is said of it
    if changed := stale():
        raise UserError(
            f"dvc.lock and reports/ are of another state than the commit, changed since: {named(changed)}; "
            "run `make repro`, then commit dvc.lock and reports/ together with the change"
        )
    committed = results()
    if subprocess.run(["dvc", "repro", "--force"], check=False).returncode:
        raise UserError("`dvc repro --force` failed in a clone of the last commit, see above")
    if different := differences(committed, results()):
        raise UserError(
            f"a run from nothing gives other results than the commit: {named(different)} (tolerance {TOLERANCE}); "
            "run `make repro` and commit what it gives"
        )
    other = subprocess.run(["git", "diff", "--name-only"], capture_output=True, text=True, check=True).stdout.split()
    how = "the same to the last bit" if not other else f"within {TOLERANCE}; these differ: {', '.join(other)}"
    if card_of_other_results():
        print(f"{CARD} tells of other results; `make card` writes it anew")
    print(f"verified: the results of this commit came out again, {how}")


@dataclass(frozen=True)
class Results:
    """What a commit says of itself."""

    figures: dict[str, float]
    predictions: pd.DataFrame  # a row per test image (and quantity): index, actual, predicted, ...


def results() -> Results:
    """The results in this folder."""
    figures: dict[str, float] = {}
    for path in FIGURES:
        found = flat(json.loads(path.read_text(encoding="utf-8")))
        figures |= {f"{path} {name}": value for name, value in found.items() if name not in MAY_MOVE}
    return Results(figures, pd.read_csv(PREDICTIONS, dtype=str, keep_default_na=False))


def differences(committed: Results, rerun: Results) -> list[str]:
    """What differs by more than rounding explains."""
    found = [
        f"{name} {committed.figures.get(name)} is {rerun.figures.get(name)}"
        for name in {**committed.figures, **rerun.figures}
        if not close(name, committed.figures.get(name, math.nan), rerun.figures.get(name, math.nan))
    ]
    rows = ["index", "actual"]
    if not committed.predictions[rows].equals(rerun.predictions[rows]):
        found.append(f"{PREDICTIONS} is of other test rows")
    else:
        other = differing(committed.predictions, rerun.predictions)
        if other.mean() > TOLERANCE:
            found.append(f"{PREDICTIONS} has {other.sum():,} other predictions")
    return found


def differing(committed: pd.DataFrame, rerun: pd.DataFrame) -> "pd.Series[bool]":
    """Which predictions are other ones; numbers may differ by TOLERANCE times the spread of the actual ones."""
    if "residual" not in committed or "residual" not in rerun:
        return committed["predicted"] != rerun["predicted"]
    actual = committed["actual"].astype(float)
    spread = actual.groupby(committed["quantity"]).transform("std").fillna(0.0)
    room = TOLERANCE * np.maximum(spread, actual.abs())
    return (committed["predicted"].astype(float) - rerun["predicted"].astype(float)).abs() > room


def close(name: str, committed: float, rerun: float) -> bool:
    """Whether two values of a figure are the same within the tolerance."""
    if isinstance(committed, int):  # a count
        return committed == rerun
    least = 0.0 if name.endswith(("mae", "rmse")) else 1.0  # an error in a unit that nobody knows, or a share
    return abs(committed - rerun) <= TOLERANCE * max(least, abs(committed))


if __name__ == "__main__":
    run(main)
