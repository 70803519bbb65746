"""Do these results come out again? A clone of the last commit is run from nothing and compared with what it says.

    make verify          (python -m experiments.verify)

Fails where dvc.lock or reports/ do not belong to the code and the parameters, which takes two seconds to see, and where
a run from nothing gives other metrics. Equal to the last bit is expected on one family of processors; another family
may round otherwise, which TOLERANCE allows for.
"""

import json
import math
import subprocess
import tempfile
from contextlib import chdir
from pathlib import Path

from experiments.status import stale
from stages.lib.parameters import StageParameters, load
from stages.lib.stage import UserError, run

METRICS = Path("reports/metrics.json")
TOLERANCE = 0.005  # of a share such as accuracy, half a point; of a number above 1, half a percent


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", ".", clone], check=True)
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
            f"dvc.lock and reports/ are of another state than the commit, changed since: {', '.join(changed)}; "
            "run `make repro`, then commit dvc.lock and reports/ together with the change"
        )
    committed = json.loads(METRICS.read_text(encoding="utf-8"))
    if subprocess.run(["dvc", "repro", "--force"], check=False).returncode:
        raise UserError("`dvc repro --force` failed in a clone of the last commit, see above")
    compare(committed, json.loads(METRICS.read_text(encoding="utf-8")))
    other = subprocess.run(["git", "diff", "--name-only"], capture_output=True, text=True, check=True).stdout.split()
    how = "the same to the last bit" if not other else f"within {TOLERANCE}; other last bits in {', '.join(other)}"
    print(f"verified: the results of this commit came out again, {how}")


def compare(committed: dict[str, float], rerun: dict[str, float]) -> None:
    """Refuse metrics that differ by more than rounding explains.

    Raises:
        UserError: names each of them with both values.
    """
    different = [
        f"{name} {committed.get(name)} is {rerun.get(name)}"
        for name in {**committed, **rerun}
        if not close(committed.get(name, math.nan), rerun.get(name, math.nan))
    ]
    if different:
        raise UserError(
            f"{METRICS}: a run from nothing gives other metrics than the commit: {', '.join(different)} "
            f"(tolerance {TOLERANCE}); run `make repro` and commit what it gives"
        )


def close(committed: float, rerun: float) -> bool:
    """Whether two values of a metric are the same within the tolerance."""
    if isinstance(committed, int):  # a count
        return committed == rerun
    return abs(committed - rerun) <= TOLERANCE * max(1.0, abs(committed))


if __name__ == "__main__":
    run(main)
