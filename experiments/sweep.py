"""A small, named grid of experiments, and the table of what came out of it.

    make sweep NAME=learning-rate          (python -m experiments.sweep learning-rate)

In:  experiments/sweeps.yaml: name -> parameter -> values.
Out: an experiment of DVC's for every combination, one after another, each in a temporary folder; then a table, best
     first. `dvc exp apply NAME` takes one of them over.
The order is that of the accuracy on val. The test split has no say in a choice: it could not judge it any more.
Settings that differ in `seed` alone share a line, with mean and standard deviation.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from stages.lib.stage import UserError, run

SWEEPS = Path("experiments/sweeps.yaml")
SUMMARY = "reports/train.json"


def main() -> None:
    grid = read_grid(sys.argv[1] if len(sys.argv) == 2 else "")
    names = queue(grid)
    print(f"{len(names)} experiments: {', '.join(names)}", flush=True)
    subprocess.run(["dvc", "exp", "run", "--run-all"], check=False)  # what failed is told below, by its name
    print()
    found = results(names, list(grid))
    if found:
        print(table(pd.DataFrame(found.values()), list(grid)))
    if failed := [name for name in names if name not in found]:
        raise UserError(f"these experiments failed: {', '.join(failed)}; `dvc queue logs {failed[0]}` shows why")


def read_grid(name: str) -> dict[str, list[Any]]:
    """The grid of this name.

    Raises:
        UserError: there is none, or it is no mapping of parameters to lists.
    """
    sweeps = yaml.safe_load(SWEEPS.read_text(encoding="utf-8"))
    if name not in sweeps:
        raise UserError(f"{SWEEPS}: found no sweep `{name}`, expected one of {', '.join(sweeps)}: make sweep NAME=...")
    grid = sweeps[name]
    if not isinstance(grid, dict) or not all(isinstance(values, list) and values for values in grid.values()):
        raise UserError(f"{SWEEPS}: {name}: expected lines of `parameter: [value, value]`")
    return grid


def queue(grid: dict[str, list[Any]]) -> list[str]:
    """Queue every combination; the names that DVC gives them.

    Raises:
        UserError: DVC refuses, in its own words.
    """
    settings = [f"{key}={','.join(map(in_hydra, values))}" for key, values in grid.items()]
    options = [part for setting in settings for part in ("-S", setting)]
    done = subprocess.run(["dvc", "exp", "run", "--queue", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{SWEEPS}: {done.stderr.strip().removeprefix('ERROR: ')}")
    return re.findall(r"^Queued experiment '(.+)' for future execution", done.stdout, re.MULTILINE)


def in_hydra(value: Any) -> str:
    """A value as `dvc exp run -S` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def results(names: list[str], keys: list[str]) -> dict[str, dict[str, Any]]:
    """Of each experiment that has finished: its name, the swept parameters, and the figures of its training."""
    shown = subprocess.run(["dvc", "exp", "show", "--json"], capture_output=True, text=True, check=True).stdout
    found = {}
    for baseline in json.loads(shown):
        for experiment in baseline["experiments"] or []:
            # A failed one is listed too, with the figures of the commit that it started from.
            if experiment["name"] in names and experiment["executor"]["state"] == "success":
                data = experiment["revs"][0]["data"]
                swept = {key: in_hydra(data["params"]["params.yaml"]["data"][key]) for key in keys}
                figures = data["metrics"][SUMMARY]["data"]
                found[experiment["name"]] = {"experiment": experiment["name"], **swept, **figures}
    return found


def table(rows: pd.DataFrame, keys: list[str]) -> str:
    """The settings, best first; several seeds of one are one line."""
    setting = [key for key in keys if key != "seed"]
    groups = rows.groupby(setting, sort=False) if setting else [((), rows)]
    lines = []
    for values, group in groups:
        best = group.sort_values("val_accuracy", ascending=False, kind="stable").iloc[0]
        line = dict(zip(setting, values, strict=True))
        line["runs"] = len(group)
        for figure in ("val_accuracy", "val_loss"):
            spread = f" ± {group[figure].std():.4f}" if len(group) > 1 else ""
            line[figure] = f"{group[figure].mean():.4f}{spread}"
        lines.append((group["val_accuracy"].mean(), line | {"best": best["experiment"]}))
    ordered = sorted(lines, key=lambda line: -line[0])
    return pd.DataFrame([line for _, line in ordered]).to_string(index=False)


if __name__ == "__main__":
    run(main)
