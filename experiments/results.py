"""The results of the last commit, of its experiments and of the working tree, as DVC lists them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands.lib.flat import flat
from experiments.shell import file_at, output
from experiments.tracked import LOCK, METRICS, SUMMARY, not_rerun, stages_in
from stages.lib.core.parameters import PARAMETERS
from stages.lib.datasets.table import DATASETS

SCORES = ("accuracy", "r2")  # on test; on val they have the prefix `val_`
DONE = "done"
OUTDATED = "outdated"  # the results belong to other parameters
# Neither code nor data nor parameters. Every other path can be one: `source` names any folder.
NO_INPUTS = tuple(f":!{path}" for path in (LOCK, "reports", "experiments", "tests", "docs", "README.md"))


@dataclass(frozen=True)
class Result:
    """One run, or what DVC keeps of one that has not succeeded."""

    name: str  # of the experiment or the commit's branch; "workspace" for the working tree
    rev: str  # the commit that holds it; "workspace" for the working tree
    state: str  # DONE, OUTDATED, or DVC's failed, queued or running
    parameters: Mapping[str, Any]  # nested, as in params.yaml
    scores: Mapping[str, float]  # such as val_accuracy, val_loss and accuracy; empty unless DONE


def load() -> tuple[Result, Result, list[Result]]:
    """Return the results of the last commit, of the working tree, and of the commit's experiments.

    The state of the working tree is always DONE: `experiments.status` checks it.

    Raises:
        UserError: git or DVC fails, with its message.
    """
    workspace, commit = json.loads(output("dvc", "exp", "show", "--json", "--rev", "HEAD"))
    experiments = [
        _result(each["revs"][0], (each["executor"] or {}).get("state", "success"))
        for each in commit["experiments"] or []
    ]
    return _result(commit), _result(workspace), experiments


def same_code(*commits: str) -> bool:
    """Return whether two commits, or one and the working tree, differ in nothing but parameters and results."""
    return not output("git", "diff", "--name-only", *commits, "--", ".", f":!{PARAMETERS}", *NO_INPUTS)


def tracks_source(parameters: Mapping[str, Any]) -> bool:
    """Return whether git tracks the user's own source: its files, or the `.dvc` file of `dvc add`."""
    if not DATASETS[parameters["dataset"]].user_supplied:
        return True
    source = Path(parameters["source"])
    if not source.resolve().is_relative_to(Path.cwd()):
        return False
    return Path(f"{source}.dvc").exists() or bool(output("git", "ls-files", "--", str(source)))


def differing(parameters: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters whose values differ from those of `base`, by dotted key; None where one is missing."""
    values: dict[str, Any] = flat(parameters)
    base_values: dict[str, Any] = flat(base)
    missing = object()
    return {
        key: values.get(key)
        for key in {**base_values, **values}
        if values.get(key, missing) != base_values.get(key, missing)
    }


def scores_of(summary: Mapping[str, Any], metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores in the contents of reports/train.json and reports/metrics.json."""
    val = {key: summary[key] for key in (*(f"val_{score}" for score in SCORES), "val_loss") if key in summary}
    return val | {score: metrics[score] for score in SCORES if score in metrics}


def _result(entry: dict[str, Any], state: str = "success") -> Result:
    data = entry["data"] or {}
    files = {**data.get("params", {}), **data.get("metrics", {})}
    paths = (str(PARAMETERS), SUMMARY, METRICS)
    parameters, summary, metrics = (files.get(path, {}).get("data") or {} for path in paths)
    rev, name = entry["rev"], entry["name"] or entry["rev"][:7]
    if state == "success":
        state = DONE if rev == "workspace" or _recorded(rev, parameters) else OUTDATED
    # DVC lists a failed or queued run with the metrics of its commit.
    scores = scores_of(summary, metrics) if state == DONE else {}
    return Result(rev if rev == "workspace" else name, rev, state, parameters, scores)


def _recorded(rev: str, parameters: Mapping[str, Any]) -> bool:
    """Return whether dvc.lock records a run of exactly these parameters, each stage after the one before it.

    False after `dvc exp run train`, which leaves out evaluate, and in a commit that changes params.yaml alone.
    """
    try:
        stages = stages_in(file_at(rev, LOCK))
    except FileNotFoundError:
        return False
    used: dict[str, Any] = {}
    for stage in stages.values():
        used |= stage.get("params", {}).get(str(PARAMETERS), {})
    return not not_rerun(stages) and not differing(parameters, used)
