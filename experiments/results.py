"""The results of the last commit, of its experiments and of the working tree, as DVC lists them."""

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.utils.serialize import parse_yaml

from commands.lib.flat import flat
from stages.lib.core.errors import UserError
from stages.lib.core.parameters import PARAMETERS
from stages.lib.datasets.table import DATASETS

LOCK = "dvc.lock"
TRAINING = "reports/train.json"
TEST = "reports/metrics.json"
SCORES = ("accuracy", "r2")  # on test; `val_` and the same name on val
DONE = "done"
OUTDATED = "outdated"  # the results are of other parameters
# Neither code nor data nor parameters. Everything else may be: `source` names any folder.
BESIDES = tuple(f":!{path}" for path in (LOCK, "reports", "experiments", "tests", "docs", "README.md"))


@dataclass(frozen=True)
class Result:
    """One run, or what DVC keeps of one that has not ended well."""

    name: str  # of the experiment or the commit's branch; "workspace" for the working tree
    rev: str  # the commit that holds it; "workspace" for the working tree
    state: str  # DONE, OUTDATED, or DVC's failed, queued or running
    parameters: Mapping[str, Any]  # nested, as in params.yaml
    scores: Mapping[str, float]  # such as val_accuracy, val_loss and accuracy; empty unless DONE


def load() -> tuple[Result, Result, list[Result]]:
    """The results of the last commit, of the working tree, and of the commit's experiments.

    Of the working tree the state says nothing: `experiments.status` does.

    Raises:
        UserError: git or DVC fails, in its own words.
    """
    workspace, commit = json.loads(output("dvc", "exp", "show", "--json", "--rev", "HEAD"))
    experiments = [
        _result(each["revs"][0], (each["executor"] or {}).get("state", "success"))
        for each in commit["experiments"] or []
    ]
    return _result(commit), _result(workspace), experiments


def same_code(*commits: str) -> bool:
    """Whether two commits, or one and the working tree, differ in nothing but parameters and results."""
    return not output("git", "diff", "--name-only", *commits, "--", ".", f":!{PARAMETERS}", *BESIDES)


def sees_source(parameters: Mapping[str, Any]) -> bool:
    """Whether git knows the content of a user's own source, by its files or by a `.dvc` file of `dvc add`."""
    if not DATASETS[parameters["dataset"]].user_supplied:
        return True
    source = Path(parameters["source"])
    if not source.resolve().is_relative_to(Path.cwd()):
        return False
    return Path(f"{source}.dvc").exists() or bool(output("git", "ls-files", "--", str(source)))


def differing(parameters: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters whose values differ from those of `base`, by their dotted keys; None where one is missing."""
    ours: dict[str, Any] = flat(parameters)
    theirs: dict[str, Any] = flat(base)
    missing = object()
    return {key: ours.get(key) for key in {**theirs, **ours} if ours.get(key, missing) != theirs.get(key, missing)}


def scores_of(training: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, float]:
    """The scores in the contents of reports/train.json and reports/metrics.json."""
    val = {key: training[key] for key in (*(f"val_{score}" for score in SCORES), "val_loss") if key in training}
    return val | {score: test[score] for score in SCORES if score in test}


def output(*command: str) -> str:
    """Run a command and return what it prints.

    Raises:
        UserError: it fails, in its own words.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])}: {done.stderr.strip().removeprefix('ERROR: ')}")
    return done.stdout


def _result(entry: dict[str, Any], state: str = "success") -> Result:
    data = entry["data"] or {}
    files = {**data.get("params", {}), **data.get("metrics", {})}
    parameters, training, test = (files.get(path, {}).get("data") or {} for path in (str(PARAMETERS), TRAINING, TEST))
    rev, name = entry["rev"], entry["name"] or entry["rev"][:7]
    if state == "success":
        state = DONE if rev == "workspace" or _recorded(rev, parameters) else OUTDATED
    # DVC lists a run that failed or waits with the metrics of its commit.
    scores = scores_of(training, test) if state == DONE else {}
    return Result(rev if rev == "workspace" else name, rev, state, parameters, scores)


def _recorded(rev: str, parameters: Mapping[str, Any]) -> bool:
    """Whether dvc.lock records a run of exactly these parameters, with every stage run after the one before it.

    It does not after `dvc exp run train`, which leaves evaluate out, nor in a commit of params.yaml alone.
    """
    if not output("git", "ls-tree", "--name-only", rev, LOCK):
        return False
    stages = (parse_yaml(output("git", "show", f"{rev}:{LOCK}"), LOCK) or {}).get("stages", {}).values()
    used = {key: value for stage in stages for key, value in stage.get("params", {}).get(str(PARAMETERS), {}).items()}
    made = {out["path"]: out.get("md5") for stage in stages for out in stage.get("outs", [])}
    in_order = all(made.get(dep["path"], dep.get("md5")) == dep.get("md5") for s in stages for dep in s.get("deps", []))
    return in_order and not differing(parameters, used)
