"""A small, named grid of experiments, and the table of what came out of it.

    make sweep NAME=learning-rate              (python -m experiments.sweep learning-rate)
    make sweep NAME=learning-rate PART=1/2     half of them, on one of two machines

In:  experiments/sweeps.yaml: name -> parameter -> values.
Out: an experiment of DVC's for every combination, one after another, each in a temporary folder; then a table, best
     first. `dvc exp apply NAME` takes one of them over.
The order is that of the score on val: accuracy, of a regression R2. The test split has no say in a choice: it could not
judge it any more.
Settings that differ in `seed` alone share a line, with mean and standard deviation.
"""

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from stages.lib.parameters import PARAMETERS, read
from stages.lib.stage import UserError, run

SWEEPS = Path("experiments/sweeps.yaml")
SUMMARY = "reports/train.json"
SCORES = ("val_accuracy", "val_r2")  # of which a run has one


def main() -> None:
    grid = read_grid(sys.argv[1] if len(sys.argv) > 1 else "")
    chosen = part_of(combinations(grid), sys.argv[2] if len(sys.argv) > 2 else "1/1")
    refuse_a_queue_of_others()
    commit = dvc_or_git(
        "git", "rev-parse", "HEAD"
    ).strip()  # where the experiments start from, whatever comes meanwhile
    names = [queue(settings) for settings in chosen]
    print(f"{len(names)} experiments: {', '.join(names)}", flush=True)
    subprocess.run(["dvc", "exp", "run", "--run-all"], check=False)  # what failed is told below, by its name
    print()
    found = results(names, list(grid), commit)
    if found:
        print(table(pd.DataFrame(found.values()), list(grid)))
    if failed := [name for name in names if name not in found]:
        raise UserError(f"these experiments failed: {', '.join(failed)}; `dvc queue logs {failed[0]}` shows why")


def read_grid(name: str) -> dict[str, list[Any]]:
    """The grid of this name.

    Raises:
        UserError: there is none, or it is no mapping of parameters to lists.
    """
    sweeps = read(SWEEPS)
    if name not in sweeps:
        raise UserError(f"{SWEEPS}: found no sweep `{name}`, expected one of {', '.join(sweeps)}: make sweep NAME=...")
    grid = sweeps[name]
    if not isinstance(grid, dict) or not grid or not all(isinstance(v, list) and v for v in grid.values()):
        raise UserError(f"{SWEEPS}: {name}: expected lines of `parameter: [value, value]`")
    if unknown := sorted(set(grid) - set(read(PARAMETERS))):
        raise UserError(f"{SWEEPS}: {name}: {', '.join(unknown)}: no parameter of {PARAMETERS}")
    if any(isinstance(value, dict) for values in grid.values() for value in values):
        raise UserError(f"{SWEEPS}: {name}: expected numbers, names and lists as values")
    return grid


def refuse_a_queue_of_others() -> None:
    """Run nothing but the sweep's own experiments.

    Raises:
        UserError: others wait in DVC's queue.
    """
    if re.search(r"(Queued|Running)$", dvc_or_git("dvc", "queue", "status"), re.MULTILINE):
        raise UserError(
            "DVC's queue holds other experiments; `dvc queue start` runs them, `dvc queue remove` drops them"
        )


def combinations(grid: dict[str, list[Any]]) -> list[list[str]]:
    """Every combination of the grid's values, as `dvc exp run -S` takes them."""
    settings = ([f"{key}={in_hydra(value)}" for value in values] for key, values in grid.items())
    return [list(each) for each in itertools.product(*settings)]


def part_of(whole: list[list[str]], part: str) -> list[list[str]]:
    """The share of one machine of several: "2/3" is every third combination, from the second on.

    Raises:
        UserError: it is no such share, or has nothing in it.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    number, of = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= of <= len(whole):
        raise UserError(f"PART: found `{part}`, expected one such as 1/2: the first half of {len(whole)} experiments")
    return whole[number - 1 :: of]


def queue(settings: list[str]) -> str:
    """Queue one experiment; the name that DVC gives it.

    Raises:
        UserError: DVC refuses, in its own words.
    """
    options = [part for setting in settings for part in ("-S", setting)]
    printed = dvc_or_git("dvc", "exp", "run", "--queue", *options)
    (name,) = re.findall(r"^Queued experiment '(.+)' for future execution", printed, re.MULTILINE)
    return str(name)


def dvc_or_git(*command: str) -> str:
    """What a command prints.

    Raises:
        UserError: it fails, in its own words.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[:3])}: {done.stderr.strip().removeprefix('ERROR: ')}")
    return done.stdout


def in_hydra(value: Any) -> str:
    """A value as `dvc exp run -S` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def results(names: list[str], keys: list[str], commit: str) -> dict[str, dict[str, Any]]:
    """Of each experiment that has finished: its name, the swept parameters, and how well it did on val."""
    found = {}
    for baseline in json.loads(dvc_or_git("dvc", "exp", "show", "--json", "--rev", commit)):
        for experiment in baseline["experiments"] or []:
            # A failed one is listed too, with the figures of the commit that it started from.
            if experiment["name"] in names and experiment["executor"]["state"] == "success":
                data = experiment["revs"][0]["data"]
                swept = {key: in_hydra(data["params"]["params.yaml"]["data"][key]) for key in keys}
                summary = data["metrics"][SUMMARY]["data"]
                figures = {key: summary[key] for key in (*SCORES, "val_loss") if key in summary}
                found[experiment["name"]] = {"experiment": experiment["name"], **swept, **figures}
    return found


def table(rows: pd.DataFrame, keys: list[str]) -> str:
    """The settings, best first; several seeds of one are one line."""
    score = next(name for name in SCORES if name in rows)
    setting = [key for key in keys if key != "seed"]
    groups = rows.groupby(setting, sort=False) if setting else [((), rows)]
    lines = []
    for values, group in groups:
        best = group.sort_values(score, ascending=False, kind="stable").iloc[0]
        line = dict(zip(setting, values, strict=True))
        line["runs"] = len(group)
        for figure in (score, "val_loss"):
            spread = f" ± {group[figure].std():.4f}" if len(group) > 1 else ""
            line[figure] = f"{group[figure].mean():.4f}{spread}"
        lines.append((group[score].mean(), line | {"best": best["experiment"]}))
    ordered = sorted(lines, key=lambda line: -line[0])
    return pd.DataFrame([line for _, line in ordered]).to_string(index=False)


if __name__ == "__main__":
    run(main, arguments=True)
